"""Zooming in on a point: `zoom_in_on_point`, and ViGoRL's `search_coordinate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pixel_reasoner_jax.operations.arguments import check_names, check_numbers, signature
from pixel_reasoner_jax.operations.base import Box, MediaState, Operation, Result
from pixel_reasoner_jax.operations.boxes import check_area, in_full_size
from pixel_reasoner_jax.operations.calls import OperationError
from pixel_reasoner_jax.operations.chosen_image import (
    ARGUMENTS,
    choose_image,
    describe_image,
    example_image,
    in_image,
    which_image,
)

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ZoomInOnPoint(Operation):
    """Shows the square around a point, enlarged.

    `coordinate` is [x, y] in pixels of the image as the model is shown it; a point outside of it is an error. The
    square has sides of `2 * offset` of these pixels. Where it leaves the image it is moved inside, and where it is
    longer than the image it is cut.

    Attributes:
      name, aliases: see `Operation`.
      offset: half a side of the square, in pixels of the image as shown.
      side: the longer side of the returned image, in pixels; a square that has more is not reduced.
      image: in which one the point is, see `chosen_image.ARGUMENTS`.
    """

    name: str = "zoom_in_on_point"
    aliases: tuple[str, ...] = ()
    offset: int = 182
    side: int = 672
    image: str = "number"

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("coordinate", *ARGUMENTS[self.image])

    @property
    def phrase(self) -> str:
        return "zoom in on the point {coordinate}" + in_image(self.image)

    def describe(self, state: MediaState) -> dict[str, Any]:
        point = "Coordinates [x, y] of the point to look at, in pixels of the image."
        properties = {"coordinate": {"type": "array", "description": point, "items": {"type": "number"}}}
        properties |= describe_image(self.image, state, "look at")
        text = f"Zoom in on the surroundings of a point of {which_image(self.image)}."
        return signature(self.name, text, properties)

    def example(self, state: MediaState) -> dict[str, Any] | None:
        named = example_image(self.image, state)
        if named is None:
            return None
        shown = state.shown_size(choose_image(self.image, named, state, "look at"))
        return {"coordinate": [side / 2 for side in shown], **named}

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        check_names(arguments, self.arguments)
        point = tuple(check_numbers("coordinate", arguments["coordinate"], "[x, y]"))
        source = choose_image(self.image, arguments, state, "look at")
        image, shown = state.pictures[source], state.shown_size(source)
        box = square_around(point, self.offset, shown, image.size)
        check_area(box, image.size)
        crop = image.crop(box)
        times = max(1.0, self.side / max(crop.size))
        crop = crop if times == 1 else crop.resize(tuple(round(side * times) for side in crop.size))
        whole = in_full_size(box, image.size, image)
        return Result([crop], "crop", len(state.images) + 1, (whole,), (source,))

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        return f"\nHere is the area around the point (Image Size: {width}x{height}):"


def square_around(point: Point, offset: int, shown: tuple[int, int], size: tuple[int, int]) -> Box:
    """The square around a point, moved into the image, in pixels of the image.

    Args:
      point: (x, y) in pixels of the image as it is shown.
      offset: half a side of the square, in the same pixels.
      shown: (width, height) in which the image is shown.
      size: (width, height) of the image.

    Raises:
      OperationError: the point is outside of the image.
    """
    starts, ends = [], []
    for value, side, whole in zip(point, shown, size, strict=True):
        if not 0 <= value <= side:
            raise OperationError(f"coordinate is out of range; the image has {shown[0]}x{shown[1]} pixels")
        start = min(max(0, value - offset), max(0, side - 2 * offset))
        end = min(start + 2 * offset, side)
        starts.append(round(start * whole / side))
        ends.append(round(end * whole / side))
    return (*starts, *ends)
