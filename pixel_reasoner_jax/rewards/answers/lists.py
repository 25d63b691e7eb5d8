"""A list: the same parts in any order, and no others."""

from __future__ import annotations

import re

_SEPARATOR = r"\s*(?:;|,(?!\d{3}(?!\d))|,(?=\s))\s*(?:(?:and|&)\s+)?|\s+and\s+"
_REFERENCES = re.compile(_SEPARATOR, re.IGNORECASE)  # "Smith & Co" is one name
_ANSWERS = re.compile(_SEPARATOR + r"|\s+&\s+", re.IGNORECASE)
_MOST = 50  # parts; a longer list is compared as a text


def read(reference: str) -> list[str] | None:
    """The parts of a reference, None if it is one thing, or in brackets, where the order may matter."""
    parts = _split(reference)
    return parts if 1 < len(parts) <= _MOST else None


def are_words(parts: list[str]) -> bool:
    """Whether a comma between the parts may be left out, as in "San Francisco CA"."""
    return all(len(part) > 1 and not any(map(str.isdigit, part)) for part in parts)


def split(answer: str) -> list[str]:
    """The parts of an answer."""
    return _split(answer.removeprefix("both ").removeprefix("Both "), _ANSWERS)


def _split(text: str, separator: re.Pattern = _REFERENCES) -> list[str]:
    parts, begin, depth = [], 0, 0
    separators = {match.start(): match.end() for match in separator.finditer(text)}
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if i in separators and i >= begin and depth == 0:
            parts.append(text[begin:i])
            begin = separators[i]
    return [part.strip() for part in (*parts, text[begin:]) if part.strip()]
