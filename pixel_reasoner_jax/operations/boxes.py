"""Where the box of a call is in an image: scaled, widened, clamped and rounded to its pixels."""

from __future__ import annotations

from collections.abc import Sequence

from pixel_reasoner_jax.operations.base import AnyImage, Box
from pixel_reasoner_jax.operations.calls import OperationError

SMALLEST_SIDE = 28
"""A crop is refused unless both sides are longer than this many pixels."""

LARGEST_ASPECT_RATIO = 200
"""A crop longer than this many times its width is refused: the model's image processor would refuse it."""


def check_box(name: str, corners: Sequence[float]) -> None:
    """Checks that a box has an inside."""
    x1, y1, x2, y2 = corners
    if x1 >= x2 or y1 >= y2:
        raise OperationError(f"{name} is [x1, y1, x2, y2] with x1 < x2 and y1 < y2; this box is empty or inverted")


def place_box(
    corners: Sequence[float],
    size: tuple[int, int],
    units: tuple[float, float],
    padding: float = 0.0,
    padding_limit: float | None = None,
) -> Box:
    """The box (left, top, right, bottom) in an image of `size`, clamped to it and rounded to its pixels.

    Args:
      corners: x1, y1, x2, y2.
      size: (width, height) of the image in pixels.
      units: the pixels of the image that a unit of x and of y is.
      padding: how far each side is moved outwards, as a fraction of the image's width or height.
      padding_limit: the most pixels that a side is moved by; None for no limit.
    """
    x1, y1, x2, y2 = corners
    ranges = []
    for low, high, side, unit in zip((x1, y1), (x2, y2), size, units, strict=True):
        margin = padding * side
        if padding_limit is not None:
            margin = min(margin, padding_limit)
        ends = (low * unit - margin, high * unit + margin)
        # Clamped before rounding, which would fail where a huge number has become infinite.
        ranges.append([round(min(max(0, end), side)) for end in ends])
    (left, right), (top, bottom) = ranges
    return left, top, right, bottom


def check_area(
    box: Box, size: tuple[int, int], smallest: int = SMALLEST_SIDE, longest: float = LARGEST_ASPECT_RATIO
) -> None:
    """Checks that both sides of a crop are more than `smallest` pixels, and one at most `longest` times the other.

    Args:
      box: left, top, right, bottom in an image of `size`.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if min(width, height) <= smallest:
        raise OperationError(
            f"the cropped area is too small: {width}x{height} pixels of {size[0]}x{size[1]}; both sides must be"
            f" more than {smallest}"
        )
    if max(width, height) > longest * min(width, height):
        raise OperationError(f"the cropped area is too long: {width}x{height} pixels, more than {longest} to 1")


def in_full_size(box: Box, size: tuple[int, int], image: AnyImage) -> Box:
    """A box of an image, which may be a resized copy shown at `size`, in pixels of the image that was opened."""
    full = getattr(image, "full_size", image.size)
    return tuple(round(edge * new / side) for edge, new, side in zip(box, (*full, *full), (*size, *size), strict=True))
