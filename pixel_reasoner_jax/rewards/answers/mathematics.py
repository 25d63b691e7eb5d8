"""Mathematics: what only algebra can compare. Words are none, or "no" would be n times o and equal "on"."""

from __future__ import annotations

import re

MAX_NESTING = 24  # brackets open at once
MAX_LENGTH = 400  # characters

_COMMAND = re.compile(r"\\[A-Za-z]+")
_NAMES = re.compile(
    r"\b(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|sqrt|pi|theta|alpha|beta|gamma"
    r"|infty|inf|mod|max|min|lim)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]{2,}")
# An operator between operands, a power, a root; a dash or slash between letters is none: "Coca-Cola", "N/A".
_STRUCTURE = re.compile(
    r"[\w)}\]°!]\s*[+*×·^=]\s*[\w(\\{|√-]|√|π|∞|\d\s?!|\b[a-z]\s?/\s?\d|\d\s?/\s?[a-z]\b|\bpi\b|sqrt|\d\s*/\s*\d|\)\s*[-/]|[-/]\s*\(|\d\s*\(|[a-z]\(",
    re.I,
)
_NEITHER = re.compile(r"[^\w\s.,/°%()\[\]{}+-]")
_VARIABLE = re.compile(r"(?<![^\W\d_])[a-zA-Z](?![^\W\d_])")


_SPELLINGS = {"×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty "}
_ROOT = re.compile(r"√\s?(\d+|[a-zA-Z]|\([^()]*\))")


def latex(text: str) -> str:
    """The text with LaTeX for signs that algebra does not read."""
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    return text.translate(str.maketrans(_SPELLINGS))


def read(reference: str) -> str | None:
    """The reference itself if it is an expression, an equation in a variable, or numbers in brackets."""
    return reference if is_expression(reference) else None


def is_expression(text: str) -> bool:
    plain = _COMMAND.sub(" ", text)
    if _WORD.search(_NAMES.sub(" ", plain)):
        return False
    if "=" in text and not _VARIABLE.search(plain):
        return False
    if _COMMAND.search(text) or _STRUCTURE.search(text):
        return True
    return text[:1] in "([{" and text[-1:] in ")]}" and any(character.isdigit() for character in text)


def may_equal(answer: str) -> bool:
    """Whether it is worth asking algebra about an answer: it is mathematics, or numbers and letters by themselves."""
    return is_expression(answer) or not (_WORD.search(answer) or _NEITHER.search(answer))


def fits(answer: str) -> bool:
    """Whether algebra may be asked: nothing right is as long or as deep as what it would labour at."""
    return len(answer) <= MAX_LENGTH and nesting(answer) <= MAX_NESTING


def nesting(text: str) -> int:
    """The most brackets that are open at once."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest
