"""A time of day or a duration on a clock: "10:30", "5 pm", "1:02:03"."""

from __future__ import annotations

import re
from typing import NamedTuple

from pixel_reasoner_jax.rewards.answers.texts import without_preamble

_TIME = re.compile(
    r"(?:at\s+)?(\d{1,3})(?:\s?:\s?([0-5]\d)(?:\s?:\s?([0-5]\d))?)?\s?(?:([ap])\s?\.?\s?m\b\.?|(o\s?'?\s?clock))?",
    re.IGNORECASE,
)


class Time(NamedTuple):
    """Hours (or minutes of a duration), minutes, seconds; `half` is "a", "p" or None; `of_day` where hours go to 24."""

    hours: int
    minutes: int
    seconds: int
    half: str | None
    of_day: bool = False


def read(reference: str) -> Time | None:
    match = _TIME.fullmatch(reference)
    if not match or not (match[2] or match[4] or match[5]):
        return None
    hours, minutes, seconds = (int(group or 0) for group in match.groups()[:3])
    half = match[4].casefold() if match[4] else None
    of_day = half is None and (match[1].startswith("0") or 12 < hours < 24)
    return None if half and not 1 <= hours <= 12 else Time(hours, minutes, seconds, half, of_day)


def accepts(reference: Time, answer: str) -> bool:
    """The same time. Where the reference leaves the half of the day open, so may the answer or not; 17:00 is 5 pm."""
    given = read(without_preamble(answer))
    if given is None:
        return False
    if reference.half is None and not reference.of_day and given.half:
        return reference[:3] == given[:3] or _of_day(reference) == _of_day(given)
    if reference.half and given.half is None and not given.of_day:
        return False
    return _of_day(reference) == _of_day(given)


def _of_day(time: Time) -> tuple[int, int, int]:
    if time.half is None:
        return time[:3]
    return time.hours % 12 + 12 * (time.half == "p"), time.minutes, time.seconds
