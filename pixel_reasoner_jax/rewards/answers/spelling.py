"""One spelling for what is written in many ways: LaTeX, quotes, dashes, spaces, and the words of an answer."""

from __future__ import annotations

import re
import unicodedata

_QUOTES = dict.fromkeys("“”„‟«»″＂", '"') | dict.fromkeys("‘’‚‛‹›′`´＇", "'")
_DASHES = dict.fromkeys("‐‑‒–—―−﹘﹣－", "-")
_SUPERSCRIPTS = {character: f"^{digit}" for digit, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_CHARACTERS = str.maketrans(
    _QUOTES | _DASHES | _SUPERSCRIPTS | {"º": "°", "⁄": "/", "÷": "/", "﹪": "%", "。": ".", "ı": "i", "İ": "I"}
)

_TEXT_COMMANDS = (
    "text|textbf|textit|texttt|textrm|textsf|textsc|textnormal|emph|underline|mbox|hbox"
    "|mathrm|mathbf|mathit|mathsf|mathtt|mathcal|boldsymbol|bm|operatorname|boxed"
)
_TEXT_COMMAND = re.compile(rf"\\(?:{_TEXT_COMMANDS})\s{{0,4}}\{{([^{{}}]*)\}}")
_NESTED_COMMANDS = 8  # a command in a command is opened so many times
_DEGREE = re.compile(r"\s{0,4}\^\s{0,4}(?:\\circ|\{\s{0,4}\\circ\s{0,4}\})|\\degree\b|\\circ\b")
_DELIMITERS = re.compile(r"\\[()\[\]]|\\(?:left|right|displaystyle)\b|(?<!\\)\$(?!\s{0,4}\d)|\*\*|__")
_SPACES = re.compile(r"\\[,;:!> ]|\\q?quad\b|(?<=\w)~(?=\w)")
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_ACCENT = re.compile(r"\\[`'^\"~=.]\s?\{?([A-Za-z])\}?|\\[uvHck]\s?\{([A-Za-z])\}")
_SIGNS = {"geq?": "≥", "leq?": "≤", "neq?": "≠", "pounds": "£", "euro": "€", "approx": "≈", "sim": "≈"}
_SIGN = [(re.compile(rf"\\{command}(?![A-Za-z])\s?"), sign) for command, sign in _SIGNS.items()]
_ESCAPED = re.compile(r"\\([%$&#_{}])")
_DOLLARS = re.compile(r"\$([^$]*)\$(?!\d)")
_OUTER = " \t\n\"'*"


def clean(text: str) -> str:
    r"""An answer in one spelling: NFKC, straight quotes and dashes, single spaces; without LaTeX's delimiters, text
    commands (nested ones too) and escapes; without quotes around it and a full stop behind it.

    What is left of LaTeX is mathematics: "\text{\textbf{A}}" is "A", "30^\circ" is "30°", "\frac{1}{2}" stays.
    """
    text = _VULGAR.sub(" ", text)  # or "1½" would be 11/2
    text = _ACCENT.sub(lambda match: match[1] or match[2], text)  # diacritics do not matter
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    text = _DEGREE.sub("°", text)
    for _ in range(_NESTED_COMMANDS):
        opened = _TEXT_COMMAND.sub(r"\1", text)
        if opened == text:
            break
        text = opened
    text = _DOLLARS.sub(r"\1", text)
    text = _DELIMITERS.sub("", text)
    for command, sign in _SIGN:
        text = command.sub(sign, text)
    text = _SPACES.sub(" ", text.replace("{,}", ","))
    text = _ESCAPED.sub(r"\1", text)
    text = " ".join(text.split()).strip(_OUTER)
    return text.removesuffix(".").strip(_OUTER) if not re.search(r"\b\w\.\w\.$", text) else text
