"""Zooming in: `crop_image_normalized`, also known as `zoom_in`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.base import (
    AnyImage,
    Box,
    MediaState,
    Operation,
    Result,
    check_index,
    check_list,
    check_names,
    check_number,
    signature,
)
from pixel_reasoner_jax.operations.calls import OperationError

SMALLEST_SIDE = 28
"""A crop is refused unless both sides are longer than this many pixels."""

LARGEST_ASPECT_RATIO = 200
"""A crop longer than this many times its width is refused: the model's image processor would refuse it."""

_DESCRIPTION = (
    "Zoom in on the image based on the bounding box coordinates. It is useful when the object or text in the image is"
    " too small to be seen."
)


@dataclasses.dataclass(frozen=True)
class CropImage(Operation):
    """Crops a box out of an image at full resolution; the processor then resizes it to the budget of crops.

    `bbox_2d` is [x1, y1, x2, y2]. If all four are below 1 they are fractions of the image's width and height, otherwise
    pixels of the image before resizing. So [0, 0, 1, 1] is the first pixel and not the entire image (which is
    [0, 0, 0.999, 0.999]; the signature says so), [0.5, 0.5, 1, 1] is in pixels too, and no box can lie within the first
    pixel: its coordinates would be read as fractions. The box is widened by `padding` of the image's width to the left
    and right and of its height above and below, then clamped to the image; the corner [0, 0, 1, 1] thus shows about a
    tenth of each side. Numbers that are not finite, x2 <= x1 or y2 <= y1 (before widening), crops of 28 pixels or less
    on a side, and crops longer than 200 times their width are errors.

    `target_image` counts from 1: the query's images, then all that operations returned, in order. For a video it is the
    number of a frame of the video until frames were selected, and then a number printed with the selected frames.

    Attributes:
      padding: how far each side of the box is moved outwards, as a fraction of the image's width or height.
      padding_limit: the most pixels that a side is moved by; None for no limit.
      name, aliases: see `Operation`.
      listed: whether the system message describes it.
      release: use the released code's signature, and its numbering for videos: as soon as operations have returned
        images, numbers refer to these, and the image that was printed as number n must be called as n + 1.
    """

    padding: float = 0.1
    padding_limit: float | None = None
    name: str = "crop_image_normalized"
    aliases: tuple[str, ...] = ("zoom_in",)
    listed: bool = True
    release: bool = False

    def __post_init__(self):
        if not 0 <= self.padding <= 1:
            raise UserError(f"padding is a fraction of the image from 0 to 1, got {self.padding}")

    def offered(self, state: MediaState) -> bool:
        return self.listed

    def describe(self, state: MediaState) -> dict[str, Any]:
        if self.release:
            box = "coordinates for bounding box of the area you want to zoom in. Values should be within [0.0,1.0]."
            target = (
                "The index of the image to crop. Index from 1 to the number of images. Choose 1 to operate on original"
                " image."
            )
        else:
            box = (
                "Coordinates [x1, y1, x2, y2] of the area to zoom in on: fractions of the image's width and height, all"
                " below 1, or else pixels."
            )
            target = self._describe_numbers(state)
        properties = {
            "bbox_2d": {"type": "array", "description": box, "items": {"type": "number"}},
            "target_image": {"type": "number", "description": target},
        }
        return signature(self.name, _DESCRIPTION, properties)

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        check_names(arguments, ("bbox_2d", "target_image"))
        corners = check_list("bbox_2d", arguments["bbox_2d"])
        if len(corners) != 4:
            raise OperationError(f"bbox_2d must be four numbers [x1, y1, x2, y2], not {len(corners)}")
        corners = [check_number("the coordinates of bbox_2d", corner) for corner in corners]
        source = self._target(arguments["target_image"], state)
        image = state.pictures[source]
        box = self._box(corners, image)
        return Result([image.crop(box)], "crop", len(state.images) + 1, (box,), (source,))

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        return f"\nHere is the cropped image (Image Size: {width}x{height}):"

    def _describe_numbers(self, state: MediaState) -> str:
        if state.frames:
            return (
                f"The index of the image to crop: from 1 to {len(state.frames)} a frame of the video, or once frames"
                " were selected, their printed number."
            )
        if state.query_images == 1:
            return "The index of the image to crop: 1 is the original image, later ones are earlier crops in order."
        return (
            f"The index of the image to crop: 1 to {state.query_images} are the original images, later ones are earlier"
            " crops in order."
        )

    def _target(self, number: Any, state: MediaState) -> int:
        """The index in `MediaState.pictures` of the picture that `target_image` refers to."""
        numbered = state.images if self.release else state.selected
        if state.frames and not numbered:
            return check_index("target_image", number, 1, len(state.frames), "frames of the video") - 1
        if not state.images:
            raise OperationError("there is no image to crop")
        first = 2 if self.release and state.frames else 1
        last = first + len(state.images) - 1
        return len(state.frames) + check_index("target_image", number, first, last, "images") - first

    def _box(self, corners: list[float], image: AnyImage) -> Box:
        """The widened box, rounded to pixels of the image."""
        x1, y1, x2, y2 = corners
        if x1 >= x2 or y1 >= y2:
            raise OperationError("bbox_2d is [x1, y1, x2, y2] with x1 < x2 and y1 < y2; this box is empty or inverted")
        normalized = max(corners) < 1
        ranges = []
        for low, high, side in ((x1, x2, image.width), (y1, y2, image.height)):
            scale = side if normalized else 1
            margin = self.padding * side
            if self.padding_limit is not None:
                margin = min(margin, self.padding_limit)
            ends = (low * scale - margin, high * scale + margin)
            # Clamped before rounding, which would fail where a huge number has become infinite.
            ranges.append([round(min(max(0, end), side)) for end in ends])
        (left, right), (top, bottom) = ranges
        width, height = right - left, bottom - top
        if min(width, height) <= SMALLEST_SIDE:
            raise OperationError(
                f"the cropped area is too small: {width}x{height} pixels of an image of"
                f" {image.width}x{image.height}; both sides must be more than {SMALLEST_SIDE}"
            )
        if max(width, height) > LARGEST_ASPECT_RATIO * min(width, height):
            raise OperationError(
                f"the cropped area is too long: {width}x{height} pixels, more than {LARGEST_ASPECT_RATIO} to 1"
            )
        return left, top, right, bottom
