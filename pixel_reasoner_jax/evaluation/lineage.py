"""Which picture of a conversation every operation looked at, and where on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from pixel_reasoner_jax.trajectory import Trajectory

Box = tuple[int, int, int, int]
Origin = tuple[int, int, int]
"""Index of one of the query's pictures, and where in it an image begins: left and top in pixels."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """A box drawn on one of the query's own pictures (images, or the frames of its video).

    Attributes:
      number: which operation made it, from 1 in the order of the calls.
      picture: index into the query's pictures.
      box: left, top, right, bottom in pixels of that picture.
    """

    number: int
    picture: int
    box: Box


def marks(trajectory: Trajectory) -> list[Mark]:
    """The boxes of all successful crops, traced through crops of crops back to the query's pictures.

    Follows the numbering of `operations.MediaState`: the query's images, then all that operations returned; frames of
    the video until some were selected. A crop keeps the pixels of its source, so a box inside it lies at its own corner
    plus the crop's. Boxes whose source cannot be told are left out.
    """
    images, frames = query_pictures(trajectory)
    origins: list[Origin | None] = [(i, 0, 0) for i in range(images)]
    video: list[Origin | None] = [(i, 0, 0) for i in range(images, images + frames)]
    selected = False
    out = []
    for number, record in enumerate(trajectory.operations, 1):
        if not record.succeeded:
            continue
        chosen = (record.arguments or {}).get("target_frames")
        if record.boxes:
            source = _pick(
                video if video and not selected else origins, (record.arguments or {}).get("target_image", 1)
            )
            for left, top, right, bottom in record.boxes:
                if source is None:
                    origins.append(None)
                    continue
                picture, x, y = source
                out.append(Mark(number, picture, (left + x, top + y, right + x, bottom + y)))
                origins.append((picture, left + x, top + y))
        elif isinstance(chosen, list):
            origins += [_pick(video, frame) for frame in chosen]
            selected = True
        else:
            origins += [None] * len(record.sizes)
    return out


def query_pictures(trajectory: Trajectory) -> tuple[int, int]:
    """How many images the query has, and how many frames its video."""
    images = frames = 0
    for item in prompt_items(trajectory):
        images += item.get("type") == "image"
        if item.get("type") == "video":
            frames += len(video_frames(item["video"]))
    return images, frames


def prompt_items(trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    """Content items of the messages before the first answer."""
    for message in trajectory.messages:
        if message["role"] == "assistant":
            return
        yield from message["content"]


def video_frames(video: Any) -> list[Any]:
    """The frames of a video item: a list of images, or a loaded video that holds them."""
    frames = getattr(video, "frames", video)
    return list(frames) if isinstance(frames, (list, tuple)) else []


def _pick(origins: list[Origin | None], number: Any) -> Origin | None:
    """What a number written by the model refers to, counted from 1; 2.0 is one too."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not 1 <= number <= len(origins):
        return None
    return origins[int(number) - 1]
