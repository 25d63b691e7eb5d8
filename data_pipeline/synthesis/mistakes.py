"""Boxes and frames that are wrong on purpose, constructed without trial and error (paper, appendix C.2).

Boxes are normalized (left, top, right, bottom). All returned coordinates are below 1 and not all of them are whole
numbers, so that every rule of boxes takes them for fractions (`operations.CropImage`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from data_pipeline.seed import NormalizedBox

_UNITS = 1000
"""Boxes are computed in integer thousandths, so that rounding cannot move one edge across another."""

LIMIT = (_UNITS - 1) / _UNITS
"""The largest coordinate of a box."""

WIDEST_VIEW = 0.9
"""The largest share of an image that a first crop may show which is to be zoomed into further: more is no zoom."""


def intersects(box: NormalizedBox, other: NormalizedBox) -> bool:
    """Whether two boxes share an area."""
    return min(box[2], other[2]) > max(box[0], other[0]) and min(box[3], other[3]) > max(box[1], other[1])


def contains(box: NormalizedBox, other: NormalizedBox) -> bool:
    """Whether `other` lies within `box`."""
    return box[0] <= other[0] and box[1] <= other[1] and box[2] >= other[2] and box[3] >= other[3]


def area(box: NormalizedBox) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def widened(box: NormalizedBox, padding: float) -> NormalizedBox:
    """The box that the crop operation shows with this padding: wider on every side, clamped to the image."""
    left, top, right, bottom = box
    return max(left - padding, 0.0), max(top - padding, 0.0), min(right + padding, 1.0), min(bottom + padding, 1.0)


def shown_box(box: NormalizedBox, size: tuple[int, int], padding: float) -> tuple[int, int, int, int]:
    """The pixels that the crop operation returns for a box: widened on every side, clamped to the image, rounded.

    Args:
      box: as it is called.
      size: (width, height) of the image in pixels.
      padding: of the operation.
    """
    left, top, right, bottom = (
        round(min(max(edge * side + sign * padding * side, 0.0), side))
        for edge, side, sign in zip(box, size * 2, (-1, -1, 1, 1), strict=True)
    )
    return left, top, right, bottom


def outer_box(box: NormalizedBox) -> NormalizedBox:
    """The smallest box around a box whose coordinates are whole thousandths below 1."""
    left, top = (min(max(math.floor(value * _UNITS), 0), _UNITS - 2) / _UNITS for value in box[:2])
    right, bottom = (min(math.ceil(value * _UNITS), _UNITS - 1) / _UNITS for value in box[2:])
    return left, top, right, bottom


def disjoint_box(
    cue: NormalizedBox,
    rng: np.random.Generator,
    *,
    padding: float = 0.0,
    least: tuple[float, float] = (0.05, 0.05),
    candidates: Sequence[NormalizedBox] = (),
) -> NormalizedBox | None:
    """A random box that does not show the cue: even with the operation's padding it does not intersect the cue.

    Args:
      cue: the box to miss.
      rng: of the choice.
      padding: of the operation, as a share of the image's width and height.
      least: smallest (width, height) of the box, as a share of the image.
      candidates: if there are any, one of these is chosen; of these, the crop with the padding counts as its size.

    Returns:
      The box, of about the size of the cue if there is room; None if the image has no such box.
    """
    if candidates:
        views = [(box, widened(outer_box(box), padding)) for box in candidates]
        misses = [
            box
            for box, (left, top, right, bottom) in views
            if not intersects((left, top, right, bottom), cue) and right - left >= least[0] and bottom - top >= least[1]
        ]
        return misses[rng.integers(len(misses))] if misses else None
    # The box lies in one of four strips beside the cue, a thousandth further away than the padding.
    low = [math.floor(_UNITS * (edge - padding)) - 1 for edge in cue[:2]]
    high = [math.ceil(_UNITS * (edge + padding)) + 1 for edge in cue[2:]]
    last = _UNITS - 1
    strips = [(0, 0, low[0], last), (high[0], 0, last, last), (0, 0, last, low[1]), (0, high[1], last, last)]
    width, height = (math.ceil(_UNITS * side) for side in least)
    strips = [strip for strip in strips if strip[2] - strip[0] >= width and strip[3] - strip[1] >= height]
    if not strips:
        return None
    weights = np.array([area(strip) for strip in strips], float)
    strip = strips[rng.choice(len(strips), p=weights / weights.sum())]
    scale = _UNITS * rng.uniform(0.8, 1.25)
    x = _interval(strip[0], strip[2], max(round((cue[2] - cue[0]) * scale), width), rng)
    y = _interval(strip[1], strip[3], max(round((cue[3] - cue[1]) * scale), height), rng)
    return x[0] / _UNITS, y[0] / _UNITS, x[1] / _UNITS, y[1] / _UNITS


def larger_box(
    cue: NormalizedBox,
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    padding: float = 0.0,
    factor: float = 4.0,
) -> NormalizedBox | None:
    """A random box around the cue, of which the operation returns at least `factor` times the pixels of the cue's crop.

    Padding makes small boxes much larger and large ones hardly, so that both are measured as they are returned.

    Args:
      cue: the box to contain.
      rng: of the choice.
      size: (width, height) of the image in pixels.
      padding: of the operation, as a share of the image's width and height.
      factor: of the areas.

    Returns:
      The box; None if it would show more than `WIDEST_VIEW` of the image.
    """
    inner, most = outer_box(cue), shown_box((0.0, 0.0, LIMIT, LIMIT), size, padding)
    right = shown_box(inner, size, padding)
    room = min(WIDEST_VIEW * size[0] * size[1], area(most))
    if not 0 < factor * area(right) <= room:
        return None
    target = min(factor * area(right) * rng.uniform(1.02, 1.3), room)
    # Both sides are scaled alike; if one is limited by the image, the other grows to make up for it.
    scale = math.sqrt(target / area(right))
    width = min(math.ceil((right[2] - right[0]) * scale), most[2])
    height = min(max(math.ceil(target / width), right[3] - right[1]), most[3])
    width = max(width, math.ceil(target / height))
    edges = []
    for low, high, side, last, total in ((0, 2, width, most[2], size[0]), (1, 3, height, most[3], size[1])):
        start = int(rng.integers(max(right[high] - side, 0), min(right[low], last - side), endpoint=True))
        edges.append((min(start / total + padding, inner[low]), max((start + side) / total - padding, inner[high])))
    (left, end), (top, bottom) = edges
    return outer_box((left, top, end, bottom))


def disjoint_frames(cue: Sequence[int], total: int, rng: np.random.Generator) -> tuple[int, ...] | None:
    """Random frames (1-based, ascending) that are not in the cue, as many as it has if there are enough.

    Returns:
      The frames; None if the cue has all of them.
    """
    others = sorted(set(range(1, total + 1)) - set(cue))
    if not others:
        return None
    count = min(len(set(cue)), len(others))
    return tuple(sorted(int(frame) for frame in rng.choice(others, size=count, replace=False)))


def _interval(low: int, high: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random interval of length `size` within [low, high]; all of [low, high] if that is shorter."""
    size = min(size, high - low)
    start = int(rng.integers(low, high - size, endpoint=True))
    return start, start + size
