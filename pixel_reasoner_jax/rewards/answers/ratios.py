"""A ratio or score with a colon or slash, "16:9", "50/50": not a quotient."""

from __future__ import annotations

import re

from pixel_reasoner_jax.rewards.answers.texts import without_preamble

_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*(?:(:|/)|\bto\b)\s*(\d+(?:\.\d+)?)", re.IGNORECASE)

Ratio = tuple[str, str]


def read(reference: str) -> Ratio | None:
    match = _RATIO.fullmatch(reference)
    return (_plain(match[1]), _plain(match[3])) if match and match[2] else None


def accepts(reference: Ratio, answer: str) -> bool:
    match = _RATIO.fullmatch(without_preamble(answer))
    return match is not None and (_plain(match[1]), _plain(match[3])) == reference


def _plain(digits: str) -> str:
    return digits.lstrip("0") or "0"
