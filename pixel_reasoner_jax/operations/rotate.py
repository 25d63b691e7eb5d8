"""Turning an image: `rotate_image`, and DeepEyes's `image_rotate_tool`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from PIL import Image

from pixel_reasoner_jax.operations.arguments import check_names, check_number, signature
from pixel_reasoner_jax.operations.base import MediaState, Operation, Result, bounded, edited
from pixel_reasoner_jax.operations.chosen_image import (
    ARGUMENTS,
    choose_image,
    describe_image,
    example_image,
    in_image,
    which_image,
)

_QUARTERS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclasses.dataclass(frozen=True)
class RotateImage(Operation):
    """Turns an image counterclockwise by `angle` degrees.

    Multiples of 90 move every pixel as it is. Other angles turn the image about its middle (bicubic) and keep its width
    and height: corners are cut off, and what was outside is black.

    Attributes:
      name, aliases: see `Operation`.
      image: which one is turned, see `chosen_image.ARGUMENTS`.
    """

    name: str = "rotate_image"
    aliases: tuple[str, ...] = ()
    image: str = "number"

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("angle", *ARGUMENTS[self.image])

    @property
    def phrase(self) -> str:
        return "rotate by {angle} degrees" + in_image(self.image)

    def describe(self, state: MediaState) -> dict[str, Any]:
        properties = {"angle": {"type": "number", "description": "Degrees, counterclockwise."}}
        properties |= describe_image(self.image, state, "rotate")
        return signature(self.name, f"Rotate {which_image(self.image)}, if it is not upright.", properties)

    def example(self, state: MediaState) -> dict[str, Any] | None:
        named = example_image(self.image, state)
        return None if named is None else {"angle": 90, **named}

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        check_names(arguments, self.arguments)
        angle = check_number("angle", arguments["angle"]) % 360
        source = choose_image(self.image, arguments, state, "rotate")
        image = bounded(state.pictures[source])
        size = image.size[::-1] if angle in (90, 270) else image.size
        turned = edited(image, functools.partial(turn, angle=angle), f"rotate {angle!r}", size)
        return Result([turned], state.kind_of_edited(source), len(state.images) + 1)

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        return f"\nHere is the rotated image (Image Size: {width}x{height}):"


def turn(image: Image.Image, angle: float) -> Image.Image:
    """The image turned counterclockwise by `angle` degrees, from 0 and below 360; see `RotateImage`."""
    if angle == 0:
        return image
    if angle in _QUARTERS:
        return image.transpose(_QUARTERS[angle])
    return image.rotate(angle, Image.Resampling.BICUBIC)
