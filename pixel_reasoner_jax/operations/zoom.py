"""Zooming into any image of the conversation, with the rules of other methods: which image, which units, how large."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Sequence
from typing import Any

from pixel_reasoner_jax.operations.arguments import check_names, check_numbers, signature
from pixel_reasoner_jax.operations.base import AnyImage, MediaState, Operation, Result
from pixel_reasoner_jax.operations.boxes import (
    LARGEST_ASPECT_RATIO,
    SMALLEST_SIDE,
    check_area,
    check_box,
    in_full_size,
    place_box,
)
from pixel_reasoner_jax.operations.chosen_image import (
    ARGUMENTS,
    choose_image,
    describe_image,
    example_image,
    in_image,
    which_image,
)

MOST_PIXELS = 2**22
"""A crop is not enlarged beyond so many pixels, more than the budget of crops shows."""

Size = tuple[int, int]
Enlargement = Callable[[Size, Size], float]
"""How many times the sides of a crop grow: of the (width, height) of the crop and of the image that it was cut from."""


def as_it_is(crop: Size, image: Size) -> float:
    return 1.0


def by_area(crop: Size, image: Size) -> float:
    """VLM-R3's rule: 2 for crops of less than an eighth of the image, 1 from a half on, and between them on a line."""
    share = crop[0] * crop[1] / (image[0] * image[1])
    return 2.0 - (min(max(share, 0.125), 0.5) - 0.125) / 0.375


def four_times(crop: Size, image: Size) -> float:
    """Mini-o3's rule, as far as it is known: up to 4, here wherever `MOST_PIXELS` allow it."""
    return 4.0


def at_least_112(crop: Size, image: Size) -> float:
    """Chain-of-Focus's rule: 1.5, or more where the crop would still have fewer pixels than 112 by 112."""
    return max(1.5, 112 / math.sqrt(crop[0] * crop[1]))


@dataclasses.dataclass(frozen=True)
class ZoomImage(Operation):
    """Crops a box out of an image at full resolution and enlarges it.

    `bbox_2d` is [x1, y1, x2, y2], clamped to the image. Empty boxes, and crops too small or too long are errors.

    Attributes:
      name, aliases: see `Operation`.
      image: which one is cropped, see `chosen_image.ARGUMENTS`.
      fractions: the box is in fractions of the image's width and height; otherwise in pixels of the image as the model
        is shown it.
      enlarge: how the crop grows; see `Enlargement`.
      padding: how far each side of the box is moved outwards, as a fraction of the image's width or height.
      grow: how many times the box's sides grow about its middle.
      smallest_side, longest: a crop is refused unless its sides are longer than this many pixels, and if one is more
        than `longest` times the other.
      optional: arguments that may be given and do nothing, such as a label.
    """

    name: str = "zoom_image"
    aliases: tuple[str, ...] = ()
    image: str = "number"
    fractions: bool = False
    enlarge: Enlargement = as_it_is
    padding: float = 0.0
    grow: float = 1.0
    smallest_side: int = SMALLEST_SIDE
    longest: float = LARGEST_ASPECT_RATIO
    optional: tuple[str, ...] = ("label",)
    argument_aliases = types.MappingProxyType({"bbox": "bbox_2d"})

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("bbox_2d", *ARGUMENTS[self.image])

    @property
    def phrase(self) -> str:
        return "zoom in on {bbox_2d}" + in_image(self.image)

    def describe(self, state: MediaState) -> dict[str, Any]:
        units = "fractions of the image's width and height, from 0 to 1" if self.fractions else "pixels of the image"
        box = f"Coordinates [x1, y1, x2, y2] of the area to zoom in on: {units}."
        properties = {"bbox_2d": {"type": "array", "description": box, "items": {"type": "number"}}}
        properties |= describe_image(self.image, state, "zoom in on")
        text = f"Zoom in on an area of {which_image(self.image)} to see small objects or text."
        return signature(self.name, text, properties)

    def example(self, state: MediaState) -> dict[str, Any] | None:
        named = example_image(self.image, state)
        if named is None:
            return None
        index = (
            len(state.pictures) - 1 if self.image == "last" else choose_image(self.image, named, state, "zoom in on")
        )
        width, height = (1, 1) if self.fractions else state.shown_size(index)
        return {"bbox_2d": [0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height], **named}

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        check_names(arguments, self.arguments, self.optional)
        corners = check_numbers("bbox_2d", arguments["bbox_2d"], "[x1, y1, x2, y2]")
        source = choose_image(self.image, arguments, state, "zoom in on")
        image, shown = state.pictures[source], state.shown_size(source)
        check_box("bbox_2d", corners)
        if self.grow != 1:
            corners = _grown(corners, self.grow)
        units = image.size if self.fractions else tuple(a / b for a, b in zip(image.size, shown, strict=True))
        box = place_box(corners, image.size, units, self.padding)
        check_area(box, image.size, self.smallest_side, self.longest)
        crop = image.crop(box)
        whole = in_full_size(box, image.size, image)
        return Result([self._enlarged(crop, image.size)], "crop", len(state.images) + 1, (whole,), (source,))

    def observation_text(self, result: Result, sizes: Sequence[Size]) -> str:
        width, height = sizes[0]
        return f"\nHere is the cropped image (Image Size: {width}x{height}):"

    def _enlarged(self, crop: AnyImage, image: Size) -> AnyImage:
        times = self.enlarge(crop.size, image)
        times = min(times, max(1.0, math.sqrt(MOST_PIXELS / (crop.size[0] * crop.size[1]))))
        return crop if times == 1 else crop.resize(tuple(round(side * times) for side in crop.size))


def _grown(corners: Sequence[float], times: float) -> list[float]:
    """The box with sides that are `times` as long, about the same middle."""
    x1, y1, x2, y2 = corners
    across, down = ((high - low) * (times - 1) / 2 for low, high in ((x1, x2), (y1, y2)))
    return [x1 - across, y1 - down, x2 + across, y2 + down]
