"""A quantity: a number with a unit of measurement, "5 m", "100 km/h". The unit is part of the answer."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from pixel_reasoner_jax.rewards.answers import numbers, units
from pixel_reasoner_jax.rewards.answers.texts import without_preamble

_HARMLESS = re.compile(
    r"[\s.,;:!()]*(?:(?:long|tall|high|wide|deep|away|old|each|in total|exactly)\b[\s.,;:!()]*)*", re.I
)


_POUNDS = re.compile(r"\bpounds?\b", re.IGNORECASE)  # a sum of money is a number


class Quantity(NamedTuple):
    """In the first unit of its dimension."""

    dimension: str
    value: Fraction


def read(reference: str) -> Quantity | None:
    """The quantity that a whole text is."""
    found = numbers.find(_POUNDS.sub("lb", reference))
    if found is None:
        return None
    number, before, after = found
    unit = units.leading(after)
    if before.strip() or unit is None or not _HARMLESS.fullmatch(unit[1]):
        return None
    if number.percent or number.degree or number.currency:
        return None
    return Quantity(unit[0].dimension, number.value * unit[0].size)


def accepts(reference: Quantity, answer: str) -> bool:
    """Whether the answer is the same quantity, in this unit or another."""
    given = read(without_preamble(answer))
    return given == reference
