"""A range, "25-34", "10%-20%", or a score, "3-2": two numbers in their order."""

from __future__ import annotations

import re
from typing import NamedTuple

from pixel_reasoner_jax.rewards.answers import numbers
from pixel_reasoner_jax.rewards.answers.texts import without_preamble, words

_BEFORE = re.compile(r"(?:from|between|aged?|ages|years?)\s+", re.IGNORECASE)
_BETWEEN = re.compile(r"\s*(?:-|\bto\b|\band\b|\bthrough\b|\buntil\b)\s*", re.IGNORECASE)
_NOUN = re.compile(r"[^\W\d_]+(?:\s[^\W\d_]+){0,3}")  # "years old"
_DASHES = ("-", "to", "through", "until")


class Range(NamedTuple):
    """Two numbers and the words after them, [] if there are none."""

    first: numbers.Number
    second: numbers.Number
    noun: list[str]


def read(reference: str) -> Range | None:
    return _read(reference, _DASHES)


def accepts(reference: Range, answer: str) -> bool:
    """Whether the answer is the same two numbers of the same thing, if the reference says of what. A percent sign or
    currency of one number is of both."""
    answer = without_preamble(answer)
    before = _BEFORE.match(answer)
    given = _read(answer[before.end() :], (*_DASHES, "and")) if before else _read(answer, _DASHES)
    if given is None or (reference.noun and given.noun != reference.noun):
        return False
    return all(map(numbers.equal, reference[:2], given[:2]))


def _read(text: str, between_words: tuple[str, ...]) -> Range | None:
    for between in _BETWEEN.finditer(text):
        if between[0].strip().casefold() not in between_words or between.start() == 0:
            continue
        first, last = numbers.read(text[: between.start()]), _number_and_noun(text[between.end() :])
        if first and last and not first.fraction and not last[0].fraction:
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
