"""Numbers in words: "twelve", "twenty-one", "two hundred and five", "three million"."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SMALL = dict(zip(_UNITS, range(20), strict=True)) | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
LARGE = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def as_digits(tokens: Sequence[str]) -> list[str]:
    """Words in small letters, with every number among them as digits."""
    found: list[str] = []
    i = 0
    while i < len(tokens):
        value, length = leading(tokens[i:])
        if not length and tokens[i].isdecimal() and tokens[i + 1 : i + 2] and tokens[i + 1] in LARGE:  # "3 million"
            value, length = int(tokens[i]) * LARGE[tokens[i + 1]], 2
        found.append(str(value) if length else tokens[i])
        i += length or 1
    return found


def leading(tokens: Sequence[str]) -> tuple[int, int]:
    """The number that the first tokens say, and how many they are; (0, 0) if the first is no number word.

    Args:
      tokens: words in small letters, those with a hyphen already apart.
    """
    total = group = length = 0
    before = None
    for i, token in enumerate(tokens):
        if token in SMALL and _continues(before, token):
            group += SMALL[token]
        elif token == "hundred" and (before is None or 0 < group < 100):
            group = max(group, 1) * 100
        elif token in LARGE and token != "hundred" and (before is None or group):
            total, group = total + max(group, 1) * LARGE[token], 0
        elif token == "and" and before in LARGE and i + 1 < len(tokens) and tokens[i + 1] in SMALL:
            continue
        else:
            break
        before, length = token, i + 1
    return total + group, length


def _continues(before: str | None, token: str) -> bool:
    """Whether a small number follows what was read: a unit "twenty", anything "hundred"."""
    return before is None or before in LARGE or (before in _TENS and 0 < SMALL[token] < 10)
