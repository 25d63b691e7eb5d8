"""Scorers of counts, as in TallyQA."""

from __future__ import annotations

import re

from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.scorers.scorer import Scorer, final_answer, given_answer
from pixel_reasoner_jax.rewards.answers.number_words import SMALL

_WORDS = {word: value for word, value in SMALL.items() if value <= 20}
_NUMBER = re.compile(rf"(?<![\w.,])-?\d+(?:[.,]\d+)*(?!\w)|\b(?:none|{'|'.join(_WORDS)})\b", re.IGNORECASE)
_OR = re.compile(r"\s*(?:,?\s*\b(?:or|to|and|plus|maybe)\b|[-–—,/~|])\s*", re.IGNORECASE)
_FIRST = re.compile(rf"\b(?:1?\d|20|{'|'.join(_WORDS)})\b")


def last_count(response: str) -> str | None:
    """The last number of the final answer, in digits; None without one, or where it is one of several offered."""
    found = list(_NUMBER.finditer(final_answer(response)))
    if not found:
        return None
    if len(found) > 1 and _OR.fullmatch(found[-1].string, found[-2].end(), found[-1].start()):
        return None
    word = found[-1][0].lower()
    if word == "none" or word in _WORDS:
        return str(_WORDS.get(word, 0))
    number = word.replace(",", "")
    return str(int(number.split(".")[0])) if re.fullmatch(r"-?\d{1,9}(?:\.0+)?", number) else number


def first_count(response: str) -> str | None:
    """The first whole word of the reply that is a number from 0 to 20, in digits or a word."""
    match = _FIRST.search(given_answer(response).lower())
    return None if match is None else str(_WORDS.get(match[0], match[0]))


def whole_count(response: str) -> str | None:
    """The reply, if it is a number and nothing else; "none" is 0."""
    text = given_answer(response).strip()
    if text.lower() in _WORDS or text.lower() == "none":
        return str(_WORDS.get(text.lower(), 0))
    return text


def _by_count(read) -> dict:
    def rule(response: str, item: Item) -> float:
        return float(read(response) in item.answers)

    return {"rule": rule, "answer": lambda response, item: read(response)}


SCORERS = (
    Scorer("count", says="the last number of the answer; one of several offered is none", **_by_count(last_count)),
    Scorer(
        "vlmevalkit-count",
        says="the first number from 0 to 20 of the reply, in digits or a word",
        source="VLMEvalKit, TallyQA",
        **_by_count(first_count),
    ),
    Scorer(
        "big-vision-count",
        says="the whole reply, a number in digits or a word",
        source="big_vision, tallyqa",
        **_by_count(whole_count),
    ),
)
