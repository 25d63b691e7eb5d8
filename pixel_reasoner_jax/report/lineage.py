"""Which of the query's pictures every crop was cut from, and where on it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from pixel_reasoner_jax.operations.base import Box
from pixel_reasoner_jax.trajectory import Trajectory

Origin = tuple[int, int, int]
"""Where an image was cut from: index of one of the query's pictures, left and top in its pixels."""


@dataclasses.dataclass(frozen=True)
class CropBox:
    """The region that a crop shows of one of the query's pictures (its images, or the frames of its video).

    Attributes:
      number: of the operation that made the crop, from 1 in the order of the calls.
      picture: index into the query's pictures.
      box: left, top, right, bottom in pixels of that picture.
    """

    number: int
    picture: int
    box: Box


def crop_boxes(trajectory: Trajectory) -> list[CropBox]:
    """The boxes of all successful crops on the query's pictures; a crop of a crop is traced back to its picture.

    A crop has the resolution of its source, so a box inside a crop is moved by the crop's own left and top. Boxes whose
    source is unknown are left out.
    """
    origins: list[Origin | None] = [(index, 0, 0) for index in range(sum(count_query_pictures(trajectory)))]
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
                out.append(CropBox(number, picture, (left + x, top + y, right + x, bottom + y)))
                origin = (picture, left + x, top + y)
            origins.append(origin)
    return out


def count_query_pictures(trajectory: Trajectory) -> tuple[int, int]:
    """The number of the query's images, and of its video's frames."""
    images = frames = 0
    for item in prompt_items(trajectory):
        images += item.get("type") == "image"
        if item.get("type") == "video":
            frames += len(video_frames(item["video"]))
    return images, frames


def prompt_items(trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    """Content items of the messages before the first turn of the assistant."""
    for message in trajectory.messages:
        if message["role"] == "assistant":
            return
        yield from message["content"]


def video_frames(video: Any) -> list[Any]:
    """The frames of a video item: a list of images, or a loaded video that holds them."""
    frames = getattr(video, "frames", video)
    return list(frames) if isinstance(frames, (list, tuple)) else []
