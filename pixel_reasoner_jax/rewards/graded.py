"""Rewards between 0 and 1 of answers that are nearly right: numbers, and ranked lists."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Hashable, Sequence

TOLERANCES = tuple(percent / 100 for percent in range(5, 55, 5))  # of the mean relative accuracy: 0.05, 0.1, ..., 0.5

_NUMBER = re.compile(r"[-+]?[0-9]{1,18}(?:\.[0-9]{1,18})?")


def as_number(text: str | None) -> float | None:
    """The number that a text is, such as "12", "-3.5" or "1,200"; None if it is something else too."""
    plain = (text or "")[:64].strip().rstrip(".").replace(",", "")
    return float(plain) if _NUMBER.fullmatch(plain) else None


def relative_accuracy(predicted: float, gold: float) -> float:
    """The share of tolerances, 5% to 50% of the true value in steps of 5%, within which a number is.

    That is the mean relative accuracy of VSI-Bench (arXiv 2412.14171), which asks for less than the tolerance. Nothing
    but 0 is near 0.
    """
    if gold == 0 or not math.isfinite(predicted):
        return float(predicted == gold)
    error = abs(predicted - gold) / abs(gold)
    return sum(error < tolerance for tolerance in TOLERANCES) / len(TOLERANCES)


def ranking_gain(retrieved: Sequence[Hashable], gold: Collection[Hashable]) -> float:
    """NDCG with relevance 0 or 1: the gain of what was retrieved, in its order, over that of all gold ones first.

    What is retrieved again gains nothing. Without any gold one it is 0.
    """
    wanted, seen, gain = set(gold), set(), 0.0
    for place, one in enumerate(retrieved, 1):
        if one in wanted and one not in seen:
            gain += 1 / math.log2(place + 1)
        seen.add(one)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, len(wanted) + 1))
    return gain / ideal if wanted else 0.0
