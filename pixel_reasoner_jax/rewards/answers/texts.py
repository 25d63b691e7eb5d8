"""Words: what no other kind reads. Case, quotes, dashes, diacritics and articles do not matter, the order of words
does."""

from __future__ import annotations

import itertools
import re
import unicodedata

from pixel_reasoner_jax.rewards.answers import number_words

_TOKEN = re.compile(
    r"(?<![\w)])-(?=\d)|(?<=[^\W\d_])-(?=\s|$)|\d+(?:[.,]\d+)*|[^\W\d_]+|(?<=\w)#|[%‰$€£¥+/=<>≥≤@*^°¬]|^!"
)
_INITIALS = re.compile(r"\b[^\W\d_](?:\.\s?[^\W\d_])+\b\.?")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ARTICLES = ("a", "an", "the")
_PREAMBLE = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s*)?"
    r"(?:(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?answer(?:\s+is\b|\s*:)\s*:?|"
    r"it\s+(?:is|says|reads)\b|it's\b|this\s+is\b|that\s+is\b|they\s+are\b|there\s+(?:is|are)\b)\s*",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """The words, numbers and signs of a cleaned text, as they are compared: folded, without articles, "&" as "and",
    number words as digits, initials ("U.S.A.") as one word."""
    text = text.replace("≠", " not = ")  # whose stroke is a combining character
    text = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    text = _INITIALS.sub(
        lambda match: re.sub(r"[.\s]", "", match[0]) + " ", text.replace("&", " and ").replace("×", "x")
    )
    tokens = _TOKEN.findall(_THOUSANDS.sub("", _APOSTROPHE.sub("", text)))
    kept = [
        token
        for token, following in itertools.zip_longest(tokens, tokens[1:], fillvalue="")
        if not (token in _ARTICLES and (following.isalpha() or (following and token == "the")))
    ]
    return number_words.as_digits(kept)


def without_preamble(answer: str) -> str:
    """The answer without "The answer is", "It is" and the like before it."""
    return answer[match.end() :] if (match := _PREAMBLE.match(answer)) and match.end() < len(answer) else answer


def read(reference: str) -> list[str]:
    return words(reference)


def accepts(reference: list[str], answer: str) -> bool:
    return bool(reference) and reference in (words(answer), words(without_preamble(answer)))
