"""The values of a row's columns: what each may be, and how it is stored."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.query import is_missing

_LARGEST = 1e12
"""Numbers must be below it: coordinates, times and counts are, infinity and NaN are not."""

ReadValue = Callable[[Any, str], Any]
"""(value, name of the column) to what is stored; raises a UserError that names the column."""


def plain(value: Any, name: str) -> Any:
    """A value that can be stored as JSON: NaN and infinity become null, times texts, decimal numbers numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one, name) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, name) for one in value]
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise UserError(f"{name} holds {shown(value)} ({type(value).__name__}), which cannot be stored")


def parsed(value: Any, name: str) -> Any:
    """A list or a mapping, which a table may have as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise UserError(f'{name} is the text {shown(value)}, which is not JSON, as [1, 2] and ["a", "b"] are') from None


def read_mapping(value: Any, name: str) -> dict[str, Any]:
    """A mapping, also as JSON text."""
    value = parsed(value, name)
    if not isinstance(value, Mapping):
        raise UserError(f"{name} is {shown(value)}; it is a mapping")
    return plain(value, name)


def read_answers(given: Any, name: str = "answer") -> list[str]:
    """The accepted answers as texts, without repetitions; none where the answer is missing."""
    answers = []
    for answer in given if isinstance(given, list | tuple) else [given]:
        if is_missing(answer):
            continue
        if not isinstance(answer, str | int | float | decimal.Decimal):
            raise UserError(f"{name} is {shown(given)}; it is a text, a number, or a list of those that are accepted")
        if str(answer).strip():
            answers.append(str(answer).strip())
    return list(dict.fromkeys(answers))


def read_number(value: Any, name: str) -> float:
    """A finite number, also as text, as CSV has it."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) < _LARGEST:
        raise UserError(f"{name} is {shown(value)}; it is a number")
    return number


def read_positive(value: Any, name: str) -> float:
    number = read_number(value, name)
    if number <= 0:
        raise UserError(f"{name} is {shown(value)}; it is above 0")
    return number


def read_share(value: Any, name: str) -> float:
    number = read_number(value, name)
    if not 0 <= number <= 1:
        raise UserError(f"{name} is {shown(value)}; it is from 0 to 1")
    return number


def read_whole(least: int) -> ReadValue:
    def read(value: Any, name: str) -> int:
        number = read_number(value, name)
        if number != int(number) or number < least:
            raise UserError(f"{name} is {shown(value)}; it is a whole number, {least} or more")
        return int(number)

    return read


def read_boolean(value: Any, name: str) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "1", "0"):
        return value.strip().lower() in ("true", "1")
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise UserError(f"{name} is {shown(value)}; it is true or false")


def read_text(value: Any, name: str) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}; it is a text")
    return str(value)


def read_numbers(count: int | None = None) -> ReadValue:
    """Reads lists of finite numbers, of length `count` if that is given."""

    def read(value: Any, name: str) -> list[float]:
        value = parsed(value, name)
        if not isinstance(value, list | tuple) or not all(
            isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < _LARGEST for one in value
        ):
            raise UserError(f"{name!r} is {shown(value)}, expected a list of numbers")
        if count is not None and len(value) != count:
            raise UserError(f"{name!r} has {len(value)} numbers, expected {count}")
        return list(value)

    return read


def read_list(read: ReadValue) -> ReadValue:
    """Reads lists of what `read` reads; missing elements, as tables have them, are left out."""

    def read_each(value: Any, name: str) -> list[Any]:
        value = parsed(value, name)
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} is {shown(value)}; it is a list")
        return [read(one, name) for one in value if not is_missing(one)]

    return read_each


def _window(value: Any, name: str) -> list[float]:
    start, end = read_numbers(2)(value, name)
    if not 0 <= start <= end:
        raise UserError(f"{name} is [{start:g}, {end:g}]; it is [start, end] in seconds")
    return [start, end]


def _frame_range(value: Any, name: str) -> list[int]:
    first, last = (read_whole(0)(one, name) for one in read_numbers(2)(value, name))
    if first > last:
        raise UserError(f"{name} has [{first}, {last}]; a range is [first, last]")
    return [first, last]


def _options(value: Any, name: str) -> list[str] | dict[str, str]:
    """The texts of the choices, or a mapping from letters to texts."""
    value = parsed(value, name)
    if isinstance(value, Mapping):
        return {str(key): read_text(one, name) for key, one in value.items() if not is_missing(one)}
    return read_list(read_text)(value, name)


def _check(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or "q" not in value:
        raise UserError(f"{name} has {shown(value)}; it is a list of mappings of q and a")
    return plain(value, name)


def _difficulty(value: Any, name: str) -> str | float:
    return value if isinstance(value, str) else read_number(value, name)


READERS: dict[str, ReadValue] = {
    "answer_type": read_text,
    "candidates": read_list(read_numbers(4)),
    "category": read_text,
    "checklist": read_list(_check),
    "difficulty": _difficulty,
    "extra": read_mapping,
    "frame_ranges": read_list(_frame_range),
    "frames": read_list(read_whole(1)),
    "gold_response": read_text,
    "options": _options,
    "pages": read_list(read_whole(0)),
    "pass_rate": read_share,
    "segments": read_list(read_whole(0)),
    "source": read_text,
    "split": read_text,
    "text_height": read_positive,
    "visual_facts": read_list(read_text),
    "window": _window,
}
"""How the columns are read that stand for themselves. Media, boxes and what names the row are read in `rows`."""
