"""Boxes and intervals of time in what a model or the data say, and how well they fit: overlap, matching, mAP.

A box is (left, top, right, bottom). Texts are untrusted: they are read with bounded patterns, in time linear in their
length, and no more than `MOST_BOXES` boxes of them are compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.trajectory import Trajectory

MOST_BOXES = 300
"""The most boxes of a text or a query that are compared. All are counted, so that many boxes earn little."""

THRESHOLDS = tuple(number / 100 for number in range(50, 100, 5))
"""IoU from which on a box counts in COCO's mAP: 0.5, 0.55, ..., 0.95."""

RECALLS = np.linspace(0, 1, 101)
"""At which COCO's average precision takes the precision."""

Box = tuple[float, float, float, float]
Interval = tuple[float, float]

_NUMBER = r"[-+]?\d{1,9}(?:\.\d{0,9})?"
_QUAD = re.compile(rf"[\[(]\s{{0,8}}({_NUMBER})" + rf"\s{{0,8}},\s{{0,8}}({_NUMBER})" * 3 + r"\s{0,8}[\])]")
_OBJECT = re.compile(r"\{[^{}]{0,2000}\}")
_LABEL = re.compile(r"""["']label["']\s{0,8}:\s{0,8}(?:"([^"]{0,200})"|'([^']{0,200})')""", re.IGNORECASE)
_CONFIDENCE = re.compile(rf"""["']confidence["']\s{{0,8}}:\s{{0,8}}["']?({_NUMBER})""", re.IGNORECASE)
_TIME = r"(?:(\d{1,4}):)?(\d{1,9}(?:\.\d{0,9})?)\s{0,4}(?:s|sec|secs|second|seconds)?\b"
_INTERVAL = re.compile(rf"(?<![\d.:]){_TIME}\s{{0,8}}(?:to|-|–|—|and|,)\s{{0,8}}{_TIME}", re.IGNORECASE)
_BOX_KEYS = ("xyxy", "bbox_2d", "box", "bbox", "position")


class Found(NamedTuple):
    """A box with what is said of it.

    Attributes:
      box: as it is written, not ordered; a box whose sides are not positive overlaps with nothing.
      label: "" without one.
      confidence: from 0 to 1; 1 without one.
    """

    box: Box
    label: str = ""
    confidence: float = 1.0


def read_boxes(text: str) -> list[Found]:
    """All boxes of a text, in order: objects of JSON or Python with four numbers, else lists of four numbers.

    `{"bbox_2d": [1, 2, 3, 4], "label": "cat"}`, `{'Position': [1, 2, 3, 4], 'Confidence': 0.9}` and `[1, 2, 3, 4]` are
    read, with any text around them.
    """
    found = []
    for match in _OBJECT.finditer(text):
        if box := read_box(match[0]):
            label, confidence = _LABEL.search(match[0]), _CONFIDENCE.search(match[0])
            words = (label[1] or label[2] or "") if label else ""
            found.append(Found(box, words, min(max(float(confidence[1]), 0.0), 1.0) if confidence else 1.0))
    return found or [Found(tuple(map(float, match.groups()))) for match in _QUAD.finditer(text)]


def read_box(text: str) -> Box | None:
    """The first box of a text, four numbers in brackets; None if there is none."""
    match = _QUAD.search(text)
    return tuple(map(float, match.groups())) if match else None


def read_interval(text: str) -> Interval | None:
    """The last interval of a text in seconds, such as "12.5 to 17", "3 - 5 s" or "01:02 to 01:10"; None without one."""
    groups = None
    for interval in _INTERVAL.finditer(text):
        groups = interval.groups()
    if groups is None:
        return None
    first, start, second, end = groups
    return 60.0 * int(first or 0) + float(start), 60.0 * int(second or 0) + float(end)


def gold_boxes(query: Query, key: str = "boxes") -> list[Found]:
    """The boxes that the data have of a query, in pixels of its image; what is no box is left out.

    Each is four numbers, or a mapping with them under "xyxy", "bbox_2d", "box" or "bbox", and perhaps a "label".
    """
    entries = query.get(key)
    if isinstance(entries, list | tuple) and _numbers(entries, 4):
        entries = [entries]
    found = []
    for entry in entries if isinstance(entries, list | tuple) else ():
        fields = {str(name).lower(): value for name, value in entry.items()} if isinstance(entry, Mapping) else {}
        given = next((fields[name] for name in _BOX_KEYS if name in fields), entry)
        if numbers := _numbers(given, 4):
            found.append(Found(numbers, str(fields.get("label") or "")))
    return found


def gold_interval(query: Query, key: str = "window") -> Interval | None:
    """The interval in seconds that the data have of a query's video; None without one."""
    return _numbers(query.get(key), 2)


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 where a side is not positive."""
    return float(ious([one], [other])[0, 0])


def ious(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """Intersection over union of each of some boxes with each of others, float64 [boxes, others]."""
    left, right = (np.asarray(one, np.float64).reshape(-1, 4) for one in (boxes, others))
    sides = np.minimum(left[:, None, 2:], right[None, :, 2:]) - np.maximum(left[:, None, :2], right[None, :, :2])
    shared = np.maximum(sides, 0).prod(axis=2)
    areas = [np.maximum(one[:, 2:] - one[:, :2], 0).prod(axis=1) for one in (left, right)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=(shared > 0) & (union > 0))


def temporal_iou(one: Interval, other: Interval) -> float:
    """Intersection over union of two intervals; 0 where one ends before it starts."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    if shared <= 0 or one[1] <= one[0] or other[1] <= other[0]:
        return 0.0
    return shared / (max(one[1], other[1]) - min(one[0], other[0]))


def match(found: Sequence[Found], gold: Sequence[Found], least: float = 0.5) -> list[float]:
    """The IoU of every box found with the gold box that is its own, 0 where none is.

    The most confident box chooses first, of the gold boxes that are left the one with the largest IoU, if that is above
    `least`. Of equally confident boxes the first one chooses first. Labels do not count.
    """
    overlaps = ious([one.box for one in found[:MOST_BOXES]], [one.box for one in gold[:MOST_BOXES]])
    matched = [0.0] * len(found)
    for number in sorted(range(len(overlaps)), key=lambda index: -found[index].confidence) if overlaps.size else ():
        best = int(overlaps[number].argmax())
        if overlaps[number, best] > least:
            matched[number] = float(overlaps[number, best])
            overlaps[:, best] = 0.0
    return matched


def distinct(found: Sequence[Found]) -> list[Found]:
    """The boxes without those that repeat an earlier one, with whatever label or confidence."""
    return list({one.box: one for one in reversed(found)}.values())[::-1]


def mean_average_precision(found: Sequence[Found], gold: Sequence[Found]) -> float:
    """COCO's mAP of one image: the mean over gold labels and `THRESHOLDS` of the average precision.

    Labels are compared without regard to case. Without gold boxes it is 1 if none was found, else 0.
    """
    if not gold:
        return float(not found)
    labels = dict.fromkeys(_folded(one.label) for one in gold)
    precisions = []
    for label in labels:
        own, theirs = ([one for one in boxes if _folded(one.label) == label] for boxes in (found, gold))
        own = sorted(own[:MOST_BOXES], key=lambda one: -one.confidence)
        overlaps = ious([one.box for one in own], [one.box for one in theirs[:MOST_BOXES]])
        precisions += [_average_precision(overlaps, len(theirs), least) for least in THRESHOLDS]
    return sum(precisions) / len(precisions)


def rescaled(found: Sequence[Found], trajectory: Trajectory) -> list[Found]:
    """Boxes in pixels of the first image as the model was shown it, in pixels of the image itself.

    They stay as they are where the trajectory has no image, or does not know its size.
    """
    columns, rows = scale_of(trajectory)
    return [
        one._replace(box=(one.box[0] * columns, one.box[1] * rows, one.box[2] * columns, one.box[3] * rows))
        for one in found
    ]


def scale_of(trajectory: Trajectory) -> tuple[float, float]:
    """The width and the height of a trajectory's first image, by those that the model was shown; (1, 1) if unknown."""
    shown = getattr(trajectory.media[0], "size", None) if trajectory.media else None
    items = (item for message in trajectory.messages for item in message["content"] if isinstance(item, Mapping))
    image = next((item["image"] for item in items if item.get("type") == "image" and "image" in item), None)
    full = getattr(image, "full_size", getattr(image, "size", None))
    if not shown or not full or min(shown) <= 0:
        return 1.0, 1.0
    return full[0] / shown[0], full[1] / shown[1]


def _average_precision(overlaps: np.ndarray, count: int, least: float) -> float:
    """COCO's average precision at an IoU of boxes that are sorted, the most confident first.

    Args:
      overlaps: IoU of each box with each gold box.
      count: of gold boxes.
      least: IoU of a right box.
    """
    left, right = overlaps.copy(), np.zeros(len(overlaps))
    for number in range(len(left)):
        best = int(left[number].argmax()) if left.shape[1] else 0
        if left.shape[1] and left[number, best] >= least - 1e-9:
            right[number] = 1.0
            left[:, best] = -1.0
    if not len(right):
        return 0.0
    hits = right.cumsum()
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / count, RECALLS - 1e-12)
    return float(np.append(precision, 0.0)[places].mean())


def _numbers(given: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers; None of anything else."""
    if not isinstance(given, list | tuple) or len(given) != count:
        return None
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in given):
        return None
    try:
        numbers = tuple(map(float, given))
    except OverflowError:
        return None
    return numbers if all(abs(one) < 1e12 and math.isfinite(one) for one in numbers) else None


def _folded(label: str) -> str:
    return " ".join(label.casefold().split())
