"""The released code's looser rules, `rewards.rules = "release"`: letters and numbers by what they begin with, a list by
its parts wherever they stand, everything else by algebra."""

from __future__ import annotations

import re
from fractions import Fraction

from pixel_reasoner_jax.rewards.answers.spelling import clean

_LETTER_REFERENCE = re.compile(r"\(?([a-z])[).:]?", re.IGNORECASE)
_LETTER_ANSWER = re.compile(r"[\s(\[{\"'*]*([a-z])\s*(?:[)\]}.:\"'*,].*)?", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"([-+]?)\s*\$?((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?)\s*(%?)", re.ASCII)
_WORDS = re.compile(r"(?=.*[^\W\d_]{2})[^\W\d_]+(?:[\s'.,;:!?&-]+[^\W\d_]+)*[\s!?]*")


def judge(answer: str, reference: str) -> bool | None:
    """See `answers.judge`."""
    answer, reference = clean(answer), clean(reference)
    if answer.casefold() == reference.casefold():
        return True
    if not answer or not reference:
        return False
    if letter := _LETTER_REFERENCE.fullmatch(reference):
        chosen = _LETTER_ANSWER.fullmatch(answer)
        return chosen is not None and chosen[1].casefold() == letter[1].casefold()
    expected, given = _number(reference), _number(answer)
    if expected and given:
        return _equal_numbers(expected, given)
    parts = [part.strip() for part in reference.split(",")]
    if len(parts) > 1 and not expected and all(part and _occurs(part, answer) for part in parts):
        return True
    # Algebra would read words as products of letters: "no" is n*o and so equals "on".
    words = _WORDS.fullmatch(reference), _WORDS.fullmatch(answer)
    if all(words) or (words[0] and given) or (expected and words[1]):
        return False
    return None


def _number(text: str) -> tuple[Fraction, bool] | None:
    """A plain number's value and whether a percent sign follows it; None if the text is something else."""
    match = _NUMBER.fullmatch(text)
    if not match or not any(character.isdigit() for character in match[2]):
        return None
    return Fraction(match[1] + match[2].replace(",", "").rstrip(".")), bool(match[3])


def _equal_numbers(first: tuple[Fraction, bool], second: tuple[Fraction, bool]) -> bool:
    """Equality to six decimals, as math-verify rounds; a percent sign on one side is optional: 50% is 50 and 0.5."""
    (a, a_percent), (b, b_percent) = first, second
    if a_percent == b_percent:
        return round(a, 6) == round(b, 6)
    percent, plain = (a, b) if a_percent else (b, a)
    return round(plain, 6) in (round(percent, 6), round(percent / 100, 6))


def _occurs(part: str, answer: str) -> bool:
    """Whether the answer contains a part, and not just inside a longer word or number."""
    return re.search(rf"(?<![\w.]){re.escape(part)}(?!\w|\.\d)", answer, re.IGNORECASE) is not None
