"""A message as pieces, each with what the loss makes of it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from typing import Any


class Mark(enum.StrEnum):
    """What the loss makes of a text."""

    TRAINED = "trained"
    MASKED = "masked"  # the assistant's, and not trained: a mistake
    CONTEXT = "context"  # everybody else's


@dataclasses.dataclass(frozen=True)
class Segment:
    """A text, or an image or video (`media`) where `text` is empty."""

    mark: Mark
    text: str = ""
    media: Any = None


def segments(message: Mapping[str, Any]) -> Iterator[Segment]:
    """The pieces of a message in order, as the renderer reads their flags."""
    assistant = message["role"] == "assistant"
    for item in message["content"]:
        if item["type"] != "text":
            yield Segment(Mark.CONTEXT, media=item[item["type"]])
            continue
        flag = item.get("train")
        trained = assistant if flag is None else flag
        yield Segment(Mark.TRAINED if trained else Mark.MASKED if assistant else Mark.CONTEXT, item["text"])
