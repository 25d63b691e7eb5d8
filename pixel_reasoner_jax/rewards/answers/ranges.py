"""A range, "25-34", "9am-5pm", "Monday to Friday", or a score, "3-2": two ends in their order."""

from __future__ import annotations

import re
from typing import NamedTuple

from pixel_reasoner_jax.rewards.answers import numbers, times, units
from pixel_reasoner_jax.rewards.answers.texts import without_preamble, words

_BEFORE = re.compile(r"(?:from|between|aged?|ages|years?)\s+", re.IGNORECASE)
_BETWEEN = re.compile(r"\s*(?:-|\bto\b|\band\b|\bthrough\b|\buntil\b)\s*", re.IGNORECASE)
_NOUN = re.compile(r"[^\W\d_]+(?:\s[^\W\d_]+){0,3}")  # "years old"
_DASHES = ("-", "to", "through", "until")
_LONGEST = 80  # characters
_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_MONTHS = "january february march april may june july august september october november december".split()
End = numbers.Number | times.Time | str


class Range(NamedTuple):
    """Two numbers, times, days or months, and the words after them, [] if there are none."""

    first: End
    second: End
    noun: list[str]


def read(reference: str) -> Range | None:
    return _read(reference, _DASHES)


def accepts(reference: Range, answer: str) -> bool:
    """Whether the answer is from the same to the same, of the same thing if the reference says of what. A percent sign
    or currency of one number is of both."""
    answer = without_preamble(answer)
    before = _BEFORE.match(answer)
    given = _read(answer[before.end() :], (*_DASHES, "and")) if before else _read(answer, _DASHES)
    return (
        given is not None and _same_noun(reference.noun, given.noun) and all(map(_same_end, reference[:2], given[:2]))
    )


def _same_noun(reference: list[str], given: list[str]) -> bool:
    expected, found = (units.leading(" ".join(noun)) for noun in (reference, given))
    if not reference:  # years are what ages are counted in
        return not given or (given[0] not in ("and", "or", "plus") and (found is None or given[0] in ("years", "year")))
    return given == reference or (expected is not None and found is not None and expected[0] == found[0])


def _same_end(reference: End, given: End) -> bool:
    if isinstance(reference, numbers.Number) and isinstance(given, numbers.Number):
        return numbers.equal(reference, given)
    return type(reference) is type(given) and reference == given


def _read(text: str, between_words: tuple[str, ...]) -> Range | None:
    if len(text) > _LONGEST:
        return None
    for between in _BETWEEN.finditer(text):
        if between[0].strip().casefold() not in between_words or between.start() == 0:
            continue
        ends = text[: between.start()], text[between.end() :]
        if all(end.casefold() in _DAYS for end in ends) or all(end.casefold() in _MONTHS for end in ends):
            return Range(ends[0].casefold(), ends[1].casefold(), [])
        if (first := times.read(ends[0])) and (second := times.read(ends[1])):
            return Range(first, second, [])
        first, last = numbers.read(ends[0]), _number_and_noun(ends[1])
        in_digits = {any(map(str.isdigit, end)) for end in ends}  # "7-Eleven" is a name
        if first and last and len(in_digits) == 1 and not first.fraction and not last[0].fraction:
            return _alike(first, *last)
    return None


def _number_and_noun(text: str) -> tuple[numbers.Number, list[str]] | None:
    if number := numbers.read(text):
        return number, []
    found = numbers.find(text)
    if found is None or found[1].strip() or not _NOUN.fullmatch(found[2].strip()):
        return None
    return found[0], words(found[2])


def _alike(first: numbers.Number, second: numbers.Number, noun: list[str]) -> Range:
    both = {"percent": first.percent or second.percent, "currency": first.currency or second.currency}
    return Range(first._replace(**both), second._replace(**both), noun)
