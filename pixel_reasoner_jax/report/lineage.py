"""Which picture of a conversation every operation looked at, and where on it."""

from __future__ import annotations

import dataclasses
import itertools
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

    A crop keeps the pixels of its source, so a box inside it lies at its own corner plus the crop's. Boxes whose source
    cannot be told are left out.
    """
    origins: list[Origin | None] = [(index, 0, 0) for index in range(sum(query_pictures(trajectory)))]
    out = []
    for number, record in enumerate(trajectory.operations, 1):
        if not record.succeeded:
            continue
        known = dict(enumerate(origins))  # some of a query's pictures may be gone
        came_from = [known.get(source) for source in record.sources] or [None] * len(record.sizes)
        for origin, box in itertools.zip_longest(came_from, record.boxes[: len(came_from)]):
            if origin is not None and box is not None:
                picture, x, y = origin
                left, top, right, bottom = box
                out.append(Mark(number, picture, (left + x, top + y, right + x, bottom + y)))
                origin = (picture, left + x, top + y)
            origins.append(origin)
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
