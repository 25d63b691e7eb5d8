"""Yes or no, true or false, with or without a reason."""

from __future__ import annotations

import re

from pixel_reasoner_jax.rewards.answers.texts import without_preamble

_SAME = {"yes": "yes", "yeah": "yes", "yep": "yes", "no": "no", "nope": "no", "true": "true", "false": "false"}
_OPPOSITE = {"yes": ("no", "nope"), "no": ("yes", "yeah", "yep"), "true": ("false",), "false": ("true",)}
_FIRST = re.compile(r"([a-z]+)(\s*)(.*)", re.IGNORECASE | re.DOTALL)
# "No cars" is not "no": without a comma, a sentence must go on.
_GOES_ON = re.compile(r"(?:it|he|she|they|we|you|i|there|this|that|these|those|the|is|are|not)\b", re.IGNORECASE)


def read(reference: str) -> str | None:
    first = _FIRST.fullmatch(reference)
    word = _SAME.get(first[1].casefold()) if first else None
    return word if word and (not first[3] or first[3][0] in ",.;:!") else None


def accepts(reference: str, answer: str) -> bool:
    first = _FIRST.fullmatch(without_preamble(answer).lstrip("\"'*( "))
    if not first or _SAME.get(first[1].casefold()) != reference:
        return False
    rest = first[3]
    if rest and rest[0].isalnum() and not _GOES_ON.match(rest):
        return False
    if re.match(r"\.\s*\d", rest):  # "No. 5"
        return False
    named = set(re.findall(r"[a-z]+", rest.casefold()))
    # "Yes, there is no doubt" says yes; "yes/no", "yes and no", "no, yes" say both.
    opposite = "|".join(_OPPOSITE[reference])
    return not (named & set(_OPPOSITE[reference]) and re.match(rf"\W*(?:(?:and|or)\W+)?(?:{opposite})\b", rest, re.I))
