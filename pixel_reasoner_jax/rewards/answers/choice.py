"""A choice by its letter, "B", and one with its text, "B. green"."""

from __future__ import annotations

import re
from typing import NamedTuple

_REFERENCE = re.compile(r"[(\[]?([a-z])[)\].:]{0,2}", re.IGNORECASE)
_LABELLED = re.compile(r"(?:\(([A-J])\)|\[([A-J])\]|([A-J])[.:)])\s*((?:(?<=\s)|(?<=[)\]])|(?=\w{2}))\S.*)", re.DOTALL)
_BEFORE = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?"
    r"(?:(?:answer|option|choice)\b(?:\s+is\b)?\s*:?\s*){1,2}",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"[(\[{]?\s*([a-z])\s*(?:$|((?:[()\]}.:\"',]|-\s|(?<=\s)-).*|(?:is|was)\s.*))", re.IGNORECASE | re.DOTALL
)
_IS_RIGHT = re.compile(r"(?:is|was)\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice))?[.!]?", re.I)
# Another letter that is written like a choice: at the start or after a comma or the like, and not part of a word.
_OTHER = re.compile(r"(?:^\W*|[,;/|&(]\s*)([A-Za-z])(?=\s*(?:[)\]}.:,;/|&]|$|(?:and|or)\b))")


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
    """The letter that an answer chooses and what follows it, or None: it chooses none, or several."""
    answer = _BEFORE.sub("", answer, count=1) if _BEFORE.match(answer) else answer
    chosen = _ANSWER.fullmatch(answer.strip("\"'* "))
    if not chosen:
        return None
    letter, rest = chosen[1], chosen[2] or ""
    if rest.startswith(("is", "was")) and not _IS_RIGHT.fullmatch(rest):
        return None
    # Letters of the other case are the text of a choice, as in "B. x", and no choices.
    others = (match[1] for match in _OTHER.finditer(rest))
    if any(other != letter and other.isupper() == letter.isupper() for other in others):
        return None
    text = "" if rest.startswith(("is", "was")) else rest.lstrip(")]}.:\"',- ").strip()
    return Choice(letter.casefold(), text.removesuffix(")") if "(" not in text else text)


def accepts(reference: Choice, answer: str) -> bool:
    """Whether the answer chooses the letter and no other, with whatever text."""
    chosen = split(answer)
    return chosen is not None and chosen.letter == reference.letter
