"""A query: what is asked about images or a video, as rollouts and stored data have it."""

from __future__ import annotations

import difflib
import math
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown

Query = Mapping[str, Any]
"""A mapping with `id`, `question`, `answer` (str or list of str) and `images` (a list) or `video`.

Rollouts do not need `answer`; it is needed where responses are scored. Media are what `processing.items.media_source`
reads. For a video given as a list of frames, `fps` is the number of these frames in a second, 2 unless given; for a
video file, the frames to take in a second of it. `options` are shown below the question; see `rollout.choices`. Other
keys, what else the data know, travel along unread.
"""

KEYS = ("id", "question", "answer", "images", "video", "fps", "options")

PASS_RATE = "pass_rate"
"""A further key of a query: the share of right responses to it that was measured, from 0 to 1."""

OBJECT_BOXES = ("object_box", "pixel_box", "proposed_box")
"""Further keys of a query, and attributes of a trajectory, any of which says where what is asked about is: left, top,
right and bottom in pixels of the first image, or shares of its sides if no number is above 1. `boxes`, as tables have
them, are mappings with such a box in `xyxy`. Pages show it; no model sees it."""

FractionBox = tuple[float, float, float, float]
"""Left, top, right and bottom as fractions of an image's width and height."""

MISSPELT = 0.8
"""A key this similar to one that the query lacks (`difflib`'s ratio) is taken for a mistake."""

_MEDIUM = re.compile(r"(image|img|picture|photo|video)s?(_?(path|file|url|bytes|b64|base64)s?)?", re.IGNORECASE)


def check_query(query: Query, scored: bool = False) -> Query:
    """Checks the form of a query, and returns it unchanged; no medium is opened.

    Args:
      query: see `Query`.
      scored: whether responses will be compared with the query's answer, so that it must have one.

    Raises:
      UserError: it is not a query; the message says which key is wrong and what it must be.
    """
    if not isinstance(query, Mapping):
        raise UserError(
            f"a query is a mapping with {', '.join(KEYS)}, and queries are a list of them; got {shown(query)}"
        )
    if is_blank(query.get("id")):
        raise UserError(f"a query with the keys {shown([*map(str, query)])}: it has no id")
    name = query_name(query)
    _check_keys(query, name)
    if is_blank(query.get("question")):
        raise UserError(f"{name}: it has no question")
    if not isinstance(query["question"], str):
        raise UserError(f"{name}: question must be a text, got {shown(query['question'])}")
    if scored:
        _check_answer(query.get("answer"), name)
    images, video = query.get("images"), query.get("video")
    if images is not None and (isinstance(images, str | bytes) or not isinstance(images, Sequence)):
        raise UserError(f"{name}: images must be a list, of one image too; got {type(images).__name__}")
    if images and video is not None:
        raise UserError(f"{name}: it has images and a video; a query has either")
    _check_options(query.get("options"), name)
    fps = query.get("fps")
    if fps is not None and not (_is_number(fps) and 0 < fps < math.inf):
        raise UserError(f"{name}: fps must be a number greater than 0, got {shown(fps)}")
    rate = query.get(PASS_RATE)
    if rate is not None and not (_is_number(rate) and 0 <= rate <= 1):
        raise UserError(f"{name}: its {PASS_RATE} is {shown(rate)}, not a number from 0 to 1")
    return query


def object_box(fields: Mapping[str, Any], size: Callable[[], tuple[float, float] | None]) -> FractionBox | None:
    """Where what is asked about is in the first image; of several boxes the smallest.

    Args:
      fields: of a query or a trajectory, which may hold anything.
      size: gives the image's (width, height) in pixels; asked only where there is a box in pixels.

    Returns:
      None where nothing says it, or what says it is no box in the image.
    """
    several = fields.get("boxes")
    given = [fields.get(name) for name in OBJECT_BOXES]
    given += [one.get("xyxy") for one in several if isinstance(one, Mapping)] if isinstance(several, list) else []
    boxes = [box for box in map(_numbers, given) if box is not None]
    sides = size() if any(max(box) > 1 for box in boxes) else None
    return smallest_box(fraction_box(box, *((1, 1) if max(box) <= 1 else sides or (0, 0))) for box in boxes)


def smallest_box(boxes: Iterable[FractionBox | None]) -> FractionBox | None:
    """The box with the smallest area, of those that are boxes."""
    return min(filter(None, boxes), key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)


def fraction_box(box: Any, width: float = 1.0, height: float = 1.0) -> FractionBox | None:
    """Left, top, right and bottom in an image of this size as fractions, cut off at its sides.

    None where nothing of it is inside, or where it is something else.
    """
    if (numbers := _numbers(box)) is None or not (width > 0 and height > 0):
        return None
    sides = (width, height) * 2
    left, top, right, bottom = (min(max(one / side, 0.0), 1.0) for one, side in zip(numbers, sides, strict=True))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _numbers(box: Any) -> list[float] | None:
    """The four finite numbers of a box; None where it is something else."""
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_number, box)):
        return None
    try:
        numbers = [float(number) for number in box]
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def query_name(query: Query) -> str:
    """Names a query in messages."""
    return f"query {shown(query['id'])}"


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN (a table's empty cell), an empty text, list or mapping."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def is_blank(value: Any) -> bool:
    """Whether a value is missing, or a text of nothing but white space."""
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def _check_keys(query: Query, name: str) -> None:
    """Refuses keys that are most likely a misspelt key or a medium, which would otherwise be left out in silence."""
    absent = [key for key in KEYS if key not in query]
    without_media = "images" in absent and "video" in absent
    for key in (key for key in query if key not in KEYS):
        meant = difflib.get_close_matches(str(key), absent, n=1, cutoff=MISSPELT)
        if not meant and without_media and _MEDIUM.fullmatch(str(key)):
            meant = ["video" if str(key).lower().startswith("video") else "images"]
        if meant:
            raise UserError(f"{name}: unknown key {shown(key)}; did you mean {meant[0]!r}?")


def _check_answer(answer: Any, name: str) -> None:
    if is_blank(answer):
        raise UserError(f"{name}: it has no answer")
    answers = answer if isinstance(answer, list | tuple) else [answer]
    if not answers or not all(isinstance(one, str) for one in answers):
        raise UserError(f"{name}: answer must be a text or a list of texts, got {shown(answer)}")
    if any(map(is_blank, answers)):
        raise UserError(f"{name}: one of its answers is empty")


def _check_options(options: Any, name: str) -> None:
    if options is None:
        return
    texts = [*options, *options.values()] if isinstance(options, Mapping) else options
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{name}: options must be a list of texts, or a mapping from letters to texts, got {shown(options)}"
        )
    if not isinstance(options, Mapping) and len(options) > len(string.ascii_uppercase):
        raise UserError(f"{name}: it has {len(options)} options; there are letters for {len(string.ascii_uppercase)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
