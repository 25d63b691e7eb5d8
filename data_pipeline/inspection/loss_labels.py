"""A message's items, each labeled by whether the loss covers it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from typing import Any


class LossLabel(enum.StrEnum):
    """Whether the loss covers a text, and if not, why."""

    TRAINED = "trained"
    MASKED = "masked"  # the assistant's, left out of the loss: a deliberate mistake
    CONTEXT = "context"  # not the assistant's


@dataclasses.dataclass(frozen=True)
class LabeledItem:
    """A text; or, if `text` is empty, an image or a video in `media`."""

    label: LossLabel
    text: str = ""
    media: Any = None


def labeled_items(message: Mapping[str, Any]) -> Iterator[LabeledItem]:
    """The items of a message in order, labeled as the renderer reads their `train` flags."""
    assistant = message["role"] == "assistant"
    for item in message["content"]:
        if item["type"] != "text":
            yield LabeledItem(LossLabel.CONTEXT, media=item[item["type"]])
            continue
        flag = item.get("train")
        untrained = LossLabel.MASKED if assistant else LossLabel.CONTEXT
        yield LabeledItem(LossLabel.TRAINED if (assistant if flag is None else flag) else untrained, item["text"])
