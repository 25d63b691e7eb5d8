"""A choice by its letter, "B", and one with its text, "B. green"."""

from __future__ import annotations

import re
from typing import NamedTuple

_REFERENCE = re.compile(r"[(\[]?([a-z])[)\].:]{0,2}", re.IGNORECASE)
_LABELLED = re.compile(r"(?:\(([A-J])\)|\[([A-J])\]|([A-J])[.:)])\s*((?:(?<=\s)|(?<=[)\]]))\S.*)", re.DOTALL)
_BEFORE = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:it\s+is\s+|it's\s+|i\s+(?:choose|pick|select)\s+)?"
    r"(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?"
    r"(?:(?:answer|option|choice|letter)\b(?:\s+is\b)?\s*:?\s*){0,2}",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"[(\[{]?\s*([a-z])\s*(?:$|((?:[()\]}.:;\"',]|-\s|(?<=\s)-).*|(?:is|was)\s.*))", re.IGNORECASE | re.DOTALL
)
_WITHOUT_MARK = re.compile(r"([A-Za-z])\s+(\S.*)", re.DOTALL)
_IS_RIGHT = re.compile(r"(?:is|was)\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice))?[.!]?", re.I)
_IS_WRONG = re.compile(r"\W*(?:(?:is|was)\s+)?(?:wrong|incorrect|not\s+(?:right|correct|the\s+answer))\b", re.I)
# Another letter that is written like a choice, and is not part of a word or of a name: at the start or after a comma or
# the like; after words that name a choice or take one back; with a mark behind it, after a word in small letters.
_OTHERS = (
    re.compile(r"(?:^\W*|[,;/|&(]\s*)([A-Za-z])(?=\s*(?:[)\]}.:,;/|&]|\s-|$|(?:and|or)\b))"),
    re.compile(
        r"(?:(?:^|[,;.:(/-])\W*|\b)(?i:(?:and|or|then|maybe|perhaps|possibly|plus|also|else|otherwise|both|as well as"
        r"|actually|no|sorry|wait|rather|it is|it's)\W+)+(?i:(?:option|choice|answer)\W+)?([A-Za-z])(?=\W*$|[)\].:,;])"
    ),
    re.compile(r"\b(?i:option|choice|answer(?:\s+is)?|thought|instead|choose|prefer)\W+([A-Za-z])(?=\W|$)"),
    re.compile(r"\b[a-z]+\s+([A-Z])(?=[.):]\s+\S)"),
)
_LETTERS = re.compile(r"[A-Za-z](?:[\s,;/&-]+(?:(?:and|or)\s+)?[A-Za-z])+")


class Choice(NamedTuple):
    """A letter in small, and the text of the choice, "" if the reference has none."""

    letter: str
    text: str


def read(reference: str) -> Choice | None:
    if letter := _REFERENCE.fullmatch(reference):
        return Choice(letter[1].casefold(), "")
    if labelled := _LABELLED.fullmatch(reference):
        return Choice((labelled[1] or labelled[2] or labelled[3]).casefold(), labelled[4])
    return None


def split(answer: str) -> Choice | None:
    """The letter that an answer chooses and what follows it, or None: it chooses none, several, or takes it back."""
    answer = answer[_BEFORE.match(answer).end() :]
    chosen = _ANSWER.fullmatch(answer.strip("\"'* "))
    if not chosen:
        return None
    letter, rest = chosen[1], chosen[2] or ""
    if _IS_WRONG.match(rest) or (rest.startswith(("is", "was")) and not _IS_RIGHT.fullmatch(rest)):
        return None
    text = "" if rest.startswith(("is", "was")) else rest.lstrip(")]}.:;\"',- ").strip()
    if _LETTERS.fullmatch(text):
        return None
    # Letters of the other case are the text of a choice, as in "B. x", and no choices.
    others = (match[1] for pattern in _OTHERS for match in pattern.finditer(rest))
    if any(other.casefold() != letter.casefold() and other.isupper() == letter.isupper() for other in others):
        return None
    return Choice(letter.casefold(), text.removesuffix(")") if "(" not in text else text)


def split_without_mark(answer: str) -> Choice | None:
    """The letter and the text of "B green", which may be a letter of the text."""
    match = _WITHOUT_MARK.fullmatch(answer)
    return Choice(match[1].casefold(), match[2]) if match else None


def accepts(reference: Choice, answer: str) -> bool:
    """Whether the answer chooses the letter and no other, with whatever text."""
    chosen = split(answer)
    return chosen is not None and chosen.letter == reference.letter
