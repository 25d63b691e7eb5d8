"""A date, or a part of one with its month in words: "May 12, 2019", "2019-05-12", "May 2019"."""

from __future__ import annotations

import re
from typing import NamedTuple

from pixel_reasoner_jax.rewards.answers.texts import without_preamble

_NAMES = "january february march april may june july august september october november december".split()
_MONTHS = {name: i + 1 for i, name in enumerate(_NAMES)} | {name[:3]: i + 1 for i, name in enumerate(_NAMES)}
_MONTHS |= {"sept": 9}
_DAYS = r"(?:(?P<weekday>(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?)\.?\s*,?\s+)?(?:on\s+)?"
_MONTH = "(?P<month>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY = r"(?:the\s+)?(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_FORMS = [
    re.compile(_DAYS + form, re.IGNORECASE)
    for form in (
        rf"{_MONTH}\s*{_DAY}(?:\s*,\s*|\s+){_YEAR}",
        rf"{_DAY}\s*(?:of\s+)?{_MONTH}\s*,?\s*{_YEAR}",
        rf"{_MONTH}\s*,?\s*{_YEAR}",
        rf"{_MONTH}\s*{_DAY}",
        rf"{_DAY}\s*(?:of\s+)?{_MONTH}",
        r"(?P<year>\d{4})\s*[-/.]\s*(?P<number>\d{1,2})\s*[-/.]\s*(?P<day>\d{1,2})",
    )
]
_NUMERIC = re.compile(r"(\d{1,2})\s*[-/.]\s*(\d{1,2})\s*[-/.]\s*(\d{4}|\d{2})")


class Date(NamedTuple):
    """Year, month and day, None where it is not said; or the numbers of "05/12/2019", whose order nobody knows."""

    year: int | None
    month: int | None
    day: int | None
    numeric: tuple[int, int, int] | None = None
    weekday: str | None = None


def read(reference: str) -> Date | None:
    for form in _FORMS:
        if match := form.fullmatch(reference):
            found = match.groupdict()
            month = _MONTHS[found["month"].casefold()] if found.get("month") else int(found["number"])
            year, day = (int(found[name]) if found.get(name) else None for name in ("year", "day"))
            weekday = (found.get("weekday") or "")[:3].casefold() or None
            return Date(year, month, day, None, weekday) if month <= 12 and (day is None or 1 <= day <= 31) else None
    if match := _NUMERIC.fullmatch(reference):
        first, second, year = map(int, match.groups())
        year += 0 if year > 99 else 2000 if year < 50 else 1900
        if first > 12 >= second or first == second:
            return Date(year, second, first)
        if second > 12 >= first:
            return Date(year, first, second)
        return Date(year, None, None, (first, second, year)) if max(first, second) <= 12 else None
    return None


def accepts(reference: Date, answer: str) -> bool:
    given = read(without_preamble(answer))
    if given is None or given[:-1] != reference[:-1]:
        return False
    return None in (given.weekday, reference.weekday) or given.weekday == reference.weekday
