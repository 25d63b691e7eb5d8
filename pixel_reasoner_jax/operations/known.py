"""Operations by the names that `config.operations.names` has: ours, and one's own.

Where a method's rules were read in its authors' code the line says [C], where they are from notes on its paper [N], and
where they are our reading of what is known [R].
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

from pixel_reasoner_jax.config_values import CROP, SELECT
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.named_parts import make_part
from pixel_reasoner_jax.operations.base import Operation
from pixel_reasoner_jax.operations.crop import CropImage
from pixel_reasoner_jax.operations.draw import DrawAcross, DrawBoxes, DrawLines
from pixel_reasoner_jax.operations.find_segment import FindSegment
from pixel_reasoner_jax.operations.frame_at_time import FrameAtTime
from pixel_reasoner_jax.operations.frames import SelectFrames
from pixel_reasoner_jax.operations.frames_between import FramesBetween
from pixel_reasoner_jax.operations.frames_by_number import FramesByNumber
from pixel_reasoner_jax.operations.point import ZoomInOnPoint
from pixel_reasoner_jax.operations.rotate import RotateImage
from pixel_reasoner_jax.operations.swap import SwapTiles
from pixel_reasoner_jax.operations.zoom import ZoomImage, at_least_112, by_area, four_times

OPERATIONS: dict[str, Callable[[], Operation]] = {
    CROP: CropImage,
    SELECT: SelectFrames,
    "zoom_image": ZoomImage,
    "zoom_in_on_point": ZoomInOnPoint,
    "rotate_image": RotateImage,
    "draw_boxes": DrawBoxes,
    "draw_lines": DrawLines,
    "frames_by_number": FramesByNumber,
    "frames_between": FramesBetween,
    "frame_at_time": FrameAtTime,
    "find_segment": FindSegment,
    "swap_tiles": SwapTiles,
    "swap_tiles_3x3": functools.partial(SwapTiles, rows=3, columns=3),
    # DeepEyes [C]: of the first image, in pixels; sides of 30 pixels and less, and more than 100 to 1, are refused.
    "deepeyes_zoom": functools.partial(ZoomImage, "image_zoom_in_tool", image="first", smallest_side=30, longest=100),
    "deepeyes_rotate": functools.partial(RotateImage, "image_rotate_tool", image="first"),
    # Chain-of-Focus [C]: the box grows 1.5 times about its middle, and the crop 1.5 times or to 112 by 112 pixels.
    "chain_of_focus_zoom": functools.partial(
        ZoomImage, "image_zoom_in_tool", image="first", grow=1.5, enlarge=at_least_112
    ),
    # VLM-R3 [N]: enlarged by the share of the image that the crop is.
    "vlm_r3_zoom": functools.partial(ZoomImage, "crop_box", image="first", enlarge=by_area),
    # Mini-o3 [C]: fractions of any image by its name; enlarged up to 4 times, where that is so [R].
    "mini_o3_zoom": functools.partial(ZoomImage, "grounding", image="source", fractions=True, enlarge=four_times),
    # ViGoRL [C]: an image of 672 pixels around a point; that 182 is half a side of what it shows is our reading [R].
    "vigorl_point": functools.partial(ZoomInOnPoint, "search_coordinate", image="first"),
    "vigorl_web_point": functools.partial(ZoomInOnPoint, "search_coordinate", image="first", offset=50, side=384),
    # VRAG-RL [C]: in pixels of the last image as it is shown, cropped from it at its full resolution.
    "vrag_bbox": functools.partial(ZoomImage, "bbox", image="last"),
    # VisRL [C]: one box, and then its crop.
    "visrl_focus": functools.partial(ZoomImage, "focus", image="first"),
    # ViLaSR [C]: shapes of an image by its index from 0.
    "vilasr_boxes": functools.partial(DrawBoxes, aliases=("Object Mapper",), image="index"),
    "vilasr_lines": functools.partial(DrawLines, aliases=("Path Tracer",), image="index"),
    # OpenThinkIMG [C]: lines across an image by its name, at a place in hundredths; theirs are dashed.
    "horizontal_line": functools.partial(DrawAcross, "DrawHorizontalLineByY", axis="y"),
    "vertical_line": functools.partial(DrawAcross, "DrawVerticalLineByX", axis="x"),
    # Video-CoM [C]: segments, one frame, and a box in pixels of the frame that was shown last.
    "video_com_segment": functools.partial(FindSegment, "FIND_SEGMENT"),
    "video_com_frame": functools.partial(FramesByNumber, "FIND_FRAME", limit=1),
    "video_com_zoom": functools.partial(ZoomImage, "SPATIAL_ZOOM", image="last"),
}

_allowed: set[str] = set()


def allow_own(names: Iterable[str]) -> None:
    """Lets operations and syntaxes of one's own, `module:name`, be imported in this process.

    A model's folder names them too, but a folder may be a stranger's: only what the user's own command or program names
    is imported.
    """
    _allowed.update(name for name in names if ":" in name)


def check_allowed(name: str, kind: str) -> None:
    """Checks that a name may be imported, if it is one's own.

    Raises:
      UserError: it may not; the message says how to allow it.
    """
    if ":" in name and name not in _allowed:
        if not re.fullmatch(r"[\w.-]+:\w+", name):  # a stranger may have written it
            raise UserError(f"the model has the {kind} {shown(name)}, which is none of ours, nor module:name")
        raise UserError(
            f"the model has the {kind} {name!r}, which is code that is not ours and is imported only if a command names"
            f" it: if you trust that code, give --own {name}, or for rl and sft the same config.operations (in Python,"
            " operations.allow_own)"
        )


def make_operation(name: str, padding: float, release: bool, box_rule: str) -> Operation:
    """An operation by its name, or one's own as `module:name` of a class, or a function, that makes it.

    Args:
      name: a key of `OPERATIONS`, or one's own.
      padding, release, box_rule: of the crop operation, and `release` of selected frames too; see `CropImage`.

    Raises:
      UserError: there is none of this name, or it may not be imported.
    """
    if name == CROP:
        return CropImage(
            padding, release=release, box_rule=box_rule, **({"aliases": ("crop_image",)} if release else {})
        )
    if name == SELECT:
        return SelectFrames(release=release)
    check_allowed(name, "operation")
    made = make_part(name, OPERATIONS, "operation", Operation, "operations.Operation")
    if not isinstance(getattr(made, "name", None), str) or not made.name:
        raise UserError(f"operation {name!r} has no `name`, under which a model calls it: give its class one")
    return made
