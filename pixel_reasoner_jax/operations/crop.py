"""Zooming in: `crop_image_normalized`, also known as `crop_image` and `zoom_in`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pixel_reasoner_jax.config_values import BOX_RULES
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.arguments import (
    check_names,
    check_numbers,
    describe_image_number,
    find_image,
    signature,
)
from pixel_reasoner_jax.operations.base import MediaState, Operation, Result
from pixel_reasoner_jax.operations.boxes import check_area, check_box, in_full_size, place_box

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
    arguments = ("bbox_2d", "target_image")
    phrase = "zoom in on {bbox_2d} in image {target_image}"
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
            target = describe_image_number(state, "crop", "earlier crops")
        properties = {
            "bbox_2d": {"type": "array", "description": box, "items": {"type": "number"}},
            "target_image": {"type": "number", "description": target},
        }
        return signature(self.name, _DESCRIPTION, properties)

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        check_names(arguments, ("bbox_2d", "target_image"))
        corners = check_numbers("bbox_2d", arguments["bbox_2d"], "[x1, y1, x2, y2]")
        source = find_image("target_image", arguments["target_image"], state, "crop", self.release)
        target = state.pictures[source]
        shown = state.shown_size(source) if self.box_rule == "shown" else target.size
        image = target.resize(shown) if self.release else target
        check_box("bbox_2d", corners)
        units = [
            side if self._are_fractions(corners) else side / shown_side
            for side, shown_side in zip(image.size, shown, strict=True)
        ]
        box = place_box(corners, image.size, units, self.padding, self.padding_limit)
        check_area(box, image.size)
        whole = in_full_size(box, image.size, target)
        return Result([image.crop(box)], "crop", len(state.images) + 1, (whole,), (source,))

    def example(self, state: MediaState) -> dict[str, Any] | None:
        return {"bbox_2d": [0.1, 0.1, 0.9, 0.9], "target_image": 1} if state.pictures else None

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        return f"\nHere is the cropped image (Image Size: {width}x{height}):"

    def _are_fractions(self, corners: list[float]) -> bool:
        """Whether a box is in fractions of the image; otherwise it is in pixels."""
        if self.release or self.box_rule == "raw":
            return max(corners) < 1
        whole = all(corner.is_integer() for corner in corners)
        return corners == [0, 0, 1, 1] or (max(corners) <= 1 and not whole)
