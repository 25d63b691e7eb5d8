"""Units of measurement by their names and symbols, each with its dimension and its size."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit: what it measures, and how many of the dimension's first unit it is."""

    dimension: str
    size: Fraction


# name: (size, spellings). A plural in s is read too where a spelling has more than three letters.
_DIMENSIONS: dict[str, list[tuple[str, str]]] = {
    "length": [
        ("1", "m meter metre"),
        ("1/1000", "mm millimeter millimetre"),
        ("1/100", "cm centimeter centimetre"),
        ("1/10", "dm decimeter decimetre"),
        ("1000", "km kilometer kilometre"),
        ("127/5000", "in inch inches"),
        ("381/1250", "ft foot feet"),
        ("1143/1250", "yd yard"),
        ("201168/125", "mi mile"),
    ],
    "mass": [
        ("1", "kg kilogram kilo"),
        ("1/1000", "g gram"),
        ("1/1000000", "mg milligram"),
        ("1000", "t ton tonne"),
        ("45359237/100000000", "lb lbs pound"),
        ("45359237/1600000000", "oz ounce"),
    ],
    "time": [
        ("1", "s sec secs second"),
        ("1/1000", "ms millisecond"),
        ("60", "min mins minute"),
        ("3600", "h hr hrs hour"),
        ("86400", "day"),
        ("604800", "week"),
    ],
    "months": [("1", "month"), ("12", "yr yrs year")],
    "volume": [("1", "l liter litre"), ("1/1000", "ml milliliter millilitre"), ("1/100", "cl"), ("1/10", "dl")]
    + [("1000", "m^3 m3"), ("473176473/125000000", "gal gallon")],
    "area": [("1", "m^2 m2 sqm"), ("1000000", "km^2 km2"), ("1/10000", "cm^2 cm2"), ("10000", "ha hectare")]
    + [("316160658/78125", "acre"), ("145161/1562500", "ft^2 sqft")],
    "speed": [("1", "m/s mps"), ("5/18", "km/h kmh kph kmph"), ("1397/3125", "mph mi/h"), ("1143/3750", "ft/s")],
    "temperature in Celsius": [("1", "°c celsius")],
    "temperature in Fahrenheit": [("1", "°f fahrenheit")],
    "power": [("1", "W watt"), ("1000", "kW kilowatt"), ("1000000", "MW megawatt"), ("1/1000", "mW milliwatt")]
    + [("1000000000", "GW gigawatt"), ("745", "hp horsepower")],
    "energy": [("1", "J joule"), ("1000", "kJ kilojoule"), ("3600000", "kWh"), ("3600", "Wh")]
    + [("4184", "kcal Cal"), ("4184/1000", "cal calorie")],
    "frequency": [("1", "Hz hertz"), ("1000", "kHz"), ("1000000", "MHz"), ("1000000000", "GHz")],
    "data": [("1", "KB kilobyte"), ("1000", "MB megabyte"), ("1000000", "GB gigabyte"), ("1000000000", "TB terabyte")],
    "voltage": [("1", "V volt"), ("1000", "kV")],
    "current": [("1", "A amp ampere"), ("1/1000", "mA")],
    "charge": [("1", "Ah"), ("1/1000", "mAh")],
    "pressure": [("1", "Pa pascal"), ("1000", "kPa"), ("100000", "bar"), ("6894", "psi")],
}


def _spellings() -> tuple[dict[str, Unit], dict[str, Unit]]:
    exact: dict[str, Unit] = {}
    for dimension, sizes in _DIMENSIONS.items():
        for size, spellings in sizes:
            for spelling in spellings.split():
                exact[spelling] = Unit(dimension, Fraction(size))
                if len(spelling) > 2 and spelling.isalpha():
                    exact.setdefault(spelling + "s", Unit(dimension, Fraction(size)))
    folded: dict[str, Unit] = {}
    for spelling, unit in exact.items():
        if len(spelling) > 1 or spelling.islower():  # "7a" is not seven amperes
            folded.setdefault(spelling.casefold(), unit)
    return exact, folded


_EXACT, _FOLDED = _spellings()
_PHRASES = (
    (re.compile(r"square (\w+)|sq\.? (\w+)", re.IGNORECASE), "^2"),
    (re.compile(r"cubic (\w+)", re.IGNORECASE), "^3"),
)
_PER = re.compile(r"\s*(?:/|\bper\b)\s*(?:an?\s)?(?P<time>h|hr|hour|s|sec|second)\b", re.IGNORECASE)
_LEADING = re.compile(
    r"\s?(°\s?[cf]\b|(?:degrees\s)?(?:celsius|fahrenheit)\b|[^\W\d_]+(?:\^?[23](?!\d))?)", re.IGNORECASE
)


def leading(text: str) -> tuple[Unit, str] | None:
    """The unit that a text begins with and what follows it, None if it begins with no unit."""
    text = text.lstrip()
    for pattern, power in _PHRASES:
        if (match := pattern.match(text)) and (base := _lookup(next(filter(None, match.groups())))):
            symbol = next(name for name, unit in _EXACT.items() if unit == base)
            return (unit, text[match.end() :]) if (unit := _EXACT.get(symbol + power)) else None
    match = _LEADING.match(text)
    if not match:
        return None
    name = re.sub(r"\s|degrees", "", match[1], flags=re.IGNORECASE)
    unit, rest = _lookup(name), text[match.end() :]
    if unit and unit.dimension == "length" and (per := _PER.match(rest)):
        seconds = 3600 if per["time"].casefold().startswith("h") else 1
        return Unit("speed", unit.size / seconds), rest[per.end() :]
    if unit and (per := _PER.match(rest)):
        return Unit(f"{unit.dimension} per {per['time'][0].casefold()}", unit.size), rest[per.end() :]
    return (unit, rest) if unit and not rest[:1].isalnum() else None


def _lookup(name: str) -> Unit | None:
    return _EXACT.get(name) or _FOLDED.get(name.casefold())
