"""A number: in digits or words, with thousands and millions, a currency, percent or degrees; a fraction.

"5 million", "5M" and "5,000,000" are one number, and so are "65%", "65" and "0.65", "1/4" and "25%", "90" and "90°".
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from pixel_reasoner_jax.rewards.answers import number_words, units
from pixel_reasoner_jax.rewards.answers.hedges import hedged
from pixel_reasoner_jax.rewards.answers.texts import without_preamble

DECIMALS = 6  # to which a fraction equals a decimal

_CURRENCY_SIGNS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "₩": "won", "¢": "cent"}
_CURRENCY_WORDS = {
    "usd": "dollar", "dollar": "dollar", "dollars": "dollar", "buck": "dollar", "bucks": "dollar",
    "eur": "euro", "euro": "euro", "euros": "euro", "gbp": "pound", "pound": "pound", "pounds": "pound",
    "jpy": "yen", "yen": "yen", "inr": "rupee", "rupee": "rupee", "rupees": "rupee", "krw": "won", "won": "won",
    "cent": "cent", "cents": "cent",
}  # fmt: skip
_POWERS = {"k": 3, "mn": 6, "mio": 6, "mil": 6, "m": 6, "b": 9, "bn": 9, "t": 12, "tn": 12}
_MAGNITUDES = {name: 10**power for name, power in _POWERS.items()} | number_words.LARGE

_WORD = "|".join((*number_words.SMALL, *number_words.LARGE))
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:\s\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?:(?<![\w)\]%°-])(?<![\w)\]%°]\s)[-+]\s?|\b(?:minus|negative)\s)?)
    (?:(?P<currency>[{"".join(_CURRENCY_SIGNS)}]|\b(?:usd|eur|gbp|jpy|inr)\b)\s?)?
    (?P<late>(?<=[{"".join(_CURRENCY_SIGNS)}])-)?
    (?P<whole>(?<![\w.,])\d{{1,6}}(?:\s?(?=\\[dt]?frac)|\s(?=\d{{1,3}}\s?/\s?\d)))?
    (?:
      \\[dt]?frac\s?(?:\{{\s?(?P<over>\d{{1,30}})\s?\}}\s?\{{\s?(?P<under>\d{{1,30}})\s?\}}|(?P<o1>\d)\s?(?P<u1>\d))
      |(?<![\w.,])(?P<digits>{_DIGITS})(?:\s?/\s?(?P<denominator>\d{{1,30}})(?![\d.,/]*\d))?
      |(?<![\w-])(?P<words>(?:{_WORD})(?:(?:[\s-]|\sand\s)(?:{_WORD}))*)\b
    )
    (?:\s?(?P<magnitude>hundred|thousand|million|billion|trillion|mn|mio|mil|bn|tn|k|(?(currency)[mb]|(?-i:[MBT])))(?![\w/^]))?
    (?:\s?(?:(?P<percent>%|percent\b|per\scent\b|pct\b)|(?P<degree>°(?!\s?[cfk]\b)|degrees?\b(?!\s(?:c|f))))
      |\s?(?P<money>[{"".join(_CURRENCY_SIGNS)}]|(?:{"|".join(_CURRENCY_WORDS)})\b))?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "tenth": 10}
_PART = re.compile(
    r"\b(?:(?:(an?|one|two|three|four)[\s-])?(half)"
    r"|(an?|one|two|three|four)[\s-](halves|(?:third|quarter|fourth|fifth|tenth)s?))\b(?:\sof\b)?",
    re.IGNORECASE,
)
_LEADING_ZERO = re.compile(r"0\d")
_SMALL_M = re.compile(r"(?<=\d)m\b")  # beside "5 million", "5m" is no length
_RESTATED = re.compile(r"([^()]+?)\s*\(([^()]+)\)")
_BARE_MAGNITUDE = re.compile(r"\d+[MBT]")  # "3M" is a name
_NO_ANSWER = "idea|answer|limit|problem|way|more|less|doubt|clue|information|data|result|need|reason|single|such"
_NONE = re.compile(
    rf"(?:none|nothing|nobody|no\s?one|no\s+(?!(?:{_NO_ANSWER})\b)[a-z]+(?:\s+(?!(?:but|except)\b)[a-z]+){{0,5}})[.!]?",
    re.I,
)


class Number(NamedTuple):
    """A number's value and how it is written.

    Attributes:
      value: without percent applied: 65% is 65.
      percent, degree: whether its sign or word follows.
      fraction: it is written as one.
      currency: a name, or None.
      magnitude: whether "million" or the like is part of it.
    """

    value: Fraction
    percent: bool = False
    degree: bool = False
    fraction: bool = False
    currency: str | None = None
    magnitude: bool = False


def read(reference: str) -> Number | None:
    """The number that a whole text is, None if it is something else: "007" is a code, "5 m" a quantity."""
    match = _NUMBER.fullmatch(_parts_as_fractions(reference))
    if not match or (match["digits"] and _LEADING_ZERO.match(match["digits"])):
        return None
    if _BARE_MAGNITUDE.fullmatch(reference):
        return None
    return _value(match)


def accepts(reference: Number, answer: str) -> bool:
    """Whether the answer names one number, this one, and hedges it in no way ("at least 3", "3 or 4")."""
    restated = _RESTATED.fullmatch(answer)  # "7 (seven)"
    if restated and (first := read(restated[1])) and (second := read(restated[2])) and equal(first, second):
        answer = restated[1]
    if reference.value == 0 and _NONE.fullmatch(without_preamble(answer)):
        return True
    found = find(_SMALL_M.sub("M", answer) if reference.magnitude else answer)
    if found is None:
        return False
    given, before, after = found
    if hedged(before, after):
        return False
    if reference.magnitude and units.leading(after):
        return False
    # "65" is 65%, "65 kg" or "65 precent" is not: what stands for a sign that is missing must be nothing.
    if _sign(reference) and not _sign(given) and any(map(str.isalpha, after)):
        return False
    return equal(reference, given)


def find(answer: str) -> tuple[Number, str, str] | None:
    """The only number of a text and what is before and after it; None if it has none, or several."""
    answer = _parts_as_fractions(answer)
    matches = [match for match in _NUMBER.finditer(answer) if _stands_alone(match, answer)]
    if len(matches) != 1:
        return None
    [match] = matches
    value = _value(match)
    return None if value is None else (value, answer[: match.start()], answer[match.end() :])


def equal(first: Number, second: Number) -> bool:
    """A sign of percent on one side is optional, and a share equals its percent where that cannot be a count."""
    if first.currency and second.currency and first.currency != second.currency:
        return False
    if len({_sign(first), _sign(second)} - {None}) > 1:
        return False
    if first.percent == second.percent:
        return _same(first.value, second.value, first.fraction != second.fraction)
    percent, plain = (first, second) if first.percent else (second, first)
    if not plain.fraction and percent.value == plain.value:
        return True
    is_share = plain.fraction or plain.value.denominator > 1 or plain.value == 0
    return is_share and _same(percent.value / 100, plain.value, plain.fraction)


def _sign(number: Number) -> str | None:
    """What a sign behind or before the number says that it counts."""
    signs = {"money": number.currency, "percent": number.percent, "degree": number.degree}
    return next((name for name, there in signs.items() if there), None)


def _parts_as_fractions(text: str) -> str:
    """The text with "three quarters" as "3/4"."""

    def fraction(match: re.Match) -> str:
        number = number_words.SMALL.get((match[1] or match[3] or "one").casefold(), 1)
        name = (match[2] or match[4]).casefold()
        return f"{number}/{_PARTS.get(name) or _PARTS[name.removesuffix('s')]}"

    return _PART.sub(fraction, text)


def _same(first: Fraction, second: Fraction, rounded: bool) -> bool:
    return round(first, DECIMALS) == round(second, DECIMALS) if rounded else first == second


def _stands_alone(match: re.Match, text: str) -> bool:
    """Whether no letter or digit touches the number, other than a unit: "B12" and "3D" are codes, "5cm" is no code."""
    before, after = text[: match.start()][-1:], text[match.end() :]
    if before.isalnum() or before in ("-", "^") or (before in (".", ",") and text[: match.start() - 1][-1:].isdigit()):
        return False
    if re.match(r"s\b", after) and re.search(r"\d{4}$", match["digits"] or ""):
        return False  # "1990s" are no seconds
    return not after[:1].isalnum() or match["digits"] is None or units.leading(after) is not None


def _value(match: re.Match) -> Number | None:
    fraction = True
    if match["over"] or match["o1"]:
        over, under = int(match["over"] or match["o1"]), int(match["under"] or match["u1"])
        if under == 0:
            return None
        value = Fraction(over, under)
    elif match["words"]:
        tokens = re.split(r"[\s-]+", match["words"].casefold())
        number, length = number_words.leading(tokens)
        if length != len(tokens):
            return None
        value, fraction = Fraction(number), False
    else:
        value, fraction = Fraction(re.sub(r"[,\s]", "", match["digits"])), bool(match["denominator"])
        if fraction:
            under = int(match["denominator"])
            if under == 0 or value == under or value + under == 100:  # 50/50 and 60/40 are ratios
                return None
            value /= under
    value += int(match["whole"] or 0)
    magnitude = match["magnitude"]
    if magnitude:
        value *= _MAGNITUDES[magnitude.casefold()]
    if match["sign"].strip().casefold() in ("-", "minus", "negative") or match["late"]:
        value = -value
    money = match["currency"] or match["money"]
    currency = _CURRENCY_SIGNS.get(money) or _CURRENCY_WORDS.get((money or "").casefold())
    return Number(value, bool(match["percent"]), bool(match["degree"]), fraction, currency, bool(magnitude))
