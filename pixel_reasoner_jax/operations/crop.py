"""Zooming in: `crop_image_normalized`, also known as `crop_image` and `zoom_in`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pixel_reasoner_jax.config_values import BOX_RULES
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.base import (
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


_BOX_TEXTS = {
    "shown": (
        "Coordinates [x1, y1, x2, y2] of the area to zoom in on: fractions of the image's width and height if all are"
        " at most 1 and not all whole, else pixels of the image as shown; [0, 0, 1, 1] is the whole image."
    ),
    "raw": (
        "Coordinates [x1, y1, x2, y2] of the area to zoom in on: fractions of the image's width and height, all below"
        " 1, or else pixels."
    ),
    "release": "coordinates for bounding box of the area you want to zoom in. Values should be within [0.0,1.0].",
}


@dataclasses.dataclass(frozen=True)
class CropImage(Operation):
    """Crops a box out of an image at full resolution; the processor then resizes it to the budget of crops.

    `bbox_2d` is [x1, y1, x2, y2]. They are fractions of the image's width and height if all four are at most 1 and not
    all whole numbers: [0.5, 0.5, 1.0, 1.0] is the lower right quarter. Otherwise they are pixels of the image in the
    size that the model is shown, which observations print; the box is scaled to the image before resizing. But
    [0, 0, 1, 1] is the whole image. The box is widened by `padding` of the image's width to the left and right and of
    its height above and below, then clamped to the image. Numbers that are not finite, x2 <= x1 or y2 <= y1 (before
    widening), crops of 28 pixels or less on a side (before resizing), and crops longer than 200 times their width are
    errors.

    `target_image` counts from 1: the query's images, then all that operations returned, in order. For a video it is the
    number of a frame of the video until frames were selected, and then a number printed with the selected frames.

    Attributes:
      padding: how far each side of the box is moved outwards, as a fraction of the image's width or height.
      padding_limit: the most pixels that a side is moved by; None for no limit.
      name, aliases: see `Operation`.
      listed: whether the system message describes it.
      release: do as the released code. Its signature; fractions are boxes whose numbers are all below 1; the crop is
        cut from the image as the model is shown it, at that resolution; its numbering for videos: as soon as
        operations have returned images, numbers refer to these, and the image that was printed as number n must be
        called as n + 1.
      box_rule: "shown", as above, or "raw", the rule of version 0.1.0, for models that learnt it: fractions are boxes
        whose numbers are all below 1, other boxes are pixels of the image before resizing; with `release`, too, the
        crop is cut from that.
    """

    padding: float = 0.1
    padding_limit: float | None = None
    name: str = "crop_image_normalized"
    aliases: tuple[str, ...] = ("crop_image", "zoom_in")
    listed: bool = True
    release: bool = False
    box_rule: str = "shown"

    def __post_init__(self):
        if not 0 <= self.padding <= 1:
            raise UserError(f"padding is a fraction of the image from 0 to 1, got {self.padding}")
        if self.box_rule not in BOX_RULES:
            raise UserError(f"there is no box rule {self.box_rule!r}: it is one of {', '.join(map(repr, BOX_RULES))}")

    def offered(self, state: MediaState) -> bool:
        return self.listed

    def describe(self, state: MediaState) -> dict[str, Any]:
        box = _BOX_TEXTS["release" if self.release else self.box_rule]
        if self.release:
            target = (
                "The index of the image to crop. Index from 1 to the number of images. Choose 1 to operate on original"
                " image."
            )
        else:
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
        target = state.pictures[source]
        shown = state.shown_size(source) if self.box_rule == "shown" else target.size
        image = target.resize(shown) if self.release else target
        box = self._box(corners, image.size, shown)
        whole = _scaled(box, image.size, getattr(target, "full_size", target.size))
        return Result([image.crop(box)], "crop", len(state.images) + 1, (whole,), (source,))

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

    def _are_fractions(self, corners: list[float]) -> bool:
        """Whether a box is in fractions of the image; otherwise it is in pixels."""
        if self.release or self.box_rule == "raw":
            return max(corners) < 1
        whole = all(corner.is_integer() for corner in corners)
        return corners == [0, 0, 1, 1] or (max(corners) <= 1 and not whole)

    def _box(self, corners: list[float], size: tuple[int, int], shown: tuple[int, int]) -> Box:
        """The widened box in an image of `size`, rounded to its pixels; the model is shown the image as `shown`."""
        x1, y1, x2, y2 = corners
        if x1 >= x2 or y1 >= y2:
            raise OperationError("bbox_2d is [x1, y1, x2, y2] with x1 < x2 and y1 < y2; this box is empty or inverted")
        fractions = self._are_fractions(corners)
        ranges = []
        for low, high, side, shown_side in zip((x1, y1), (x2, y2), size, shown, strict=True):
            scale = side if fractions else side / shown_side
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
                f"the cropped area is too small: {width}x{height} pixels of {size[0]}x{size[1]}; both sides must be"
                f" more than {SMALLEST_SIDE}"
            )
        if max(width, height) > LARGEST_ASPECT_RATIO * min(width, height):
            raise OperationError(
                f"the cropped area is too long: {width}x{height} pixels, more than {LARGEST_ASPECT_RATIO} to 1"
            )
        return left, top, right, bottom


def _scaled(box: Box, size: tuple[int, int], to: tuple[float, float]) -> Box:
    """The box of an image of `size` in pixels of the same image in size `to`."""
    return tuple(round(edge * new / side) for edge, new, side in zip(box, (*to, *to), (*size, *size), strict=True))
