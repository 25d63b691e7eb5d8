"""A code: letters with digits, "ABC123", "Route 66", or the digits of a telephone number. Their order matters, how they
are grouped into letters and digits does not: "ABC 123" is "ABC123", but "1 2" is not "12"."""

from __future__ import annotations

import re

from pixel_reasoner_jax.rewards.answers.texts import without_preamble, words

_TELEPHONE = re.compile(r"[+(]?\d[\d\s().-]{5,}\d")
_DIGITS = 7  # a telephone number has this many at least


def read(reference: str) -> list[str] | None:
    if _TELEPHONE.fullmatch(reference):
        groups = re.findall(r"\d+", reference)
        if sum(map(len, groups)) >= _DIGITS and len(groups) > 1 and ("." not in reference or min(map(len, groups)) > 2):
            return ["".join(groups)]
    tokens = words(reference)
    kinds = {token[0].isdigit() for token in tokens if token[0].isalnum()}
    return tokens if kinds == {True, False} or (kinds == {True} and reference.startswith("0")) else None


def accepts(reference: list[str], answer: str) -> bool:
    answer = without_preamble(answer)
    if len(reference) == 1 and _TELEPHONE.fullmatch(answer):
        return [re.sub(r"\D", "", answer)] == reference
    return [word for word in words(answer) if word != "and"] == [word for word in reference if word != "and"]
