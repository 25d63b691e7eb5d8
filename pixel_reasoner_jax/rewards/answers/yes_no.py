"""Yes or no, true or false, with or without a reason."""

from __future__ import annotations

import re

from pixel_reasoner_jax.rewards.answers.texts import without_preamble

_SAME = {"yes": "yes", "yeah": "yes", "yep": "yes", "no": "no", "nope": "no", "true": "true", "false": "false"}
_OPPOSITE = {"yes": "no|nope|false", "no": "yes|yeah|yep|true", "true": "false|no", "false": "true|yes"}
_FIRST = re.compile(r"([a-z]+)(\s*)(.*)", re.IGNORECASE | re.DOTALL)
# "No cars" is not "no": without a comma, a sentence must go on.
_GOES_ON = re.compile(r"(?:it|he|she|they|we|you|i|there|this|that|these|those|the|is|are|not)\b", re.IGNORECASE)
_SUBJECT = r"\W*(?:it|he|she|they|we|you|there|this|that|these|those)"
_VERB = r"(?:is|are|was|were|do|does|did|has|have|can|could|will|would|should)"
_NOT = rf"(?:\s+{_VERB}(?:n't|\s+not)|'(?:s|re)\s+not|\s+(?:can't|cannot|won't))\b"
_DENIED = re.compile(_SUBJECT + _NOT, re.IGNORECASE)
_AFFIRMED = re.compile(rf"{_SUBJECT}\s+{_VERB}\W*", re.IGNORECASE)
_WRONG = re.compile(r"\W*(?:is|that is|that's)?\s*(?:wrong|incorrect|not\s+(?:right|correct|true))\b", re.IGNORECASE)


def read(reference: str) -> str | None:
    first = _FIRST.fullmatch(reference)
    word = _SAME.get(first[1].casefold()) if first else None
    if word is None or (first[3] and first[3][0] not in ",.;:!") or _contradicts(word, first[3]):
        return None
    return word


def accepts(reference: str, answer: str) -> bool:
    """Whether the answer says so and not the opposite too: "yes/no", "yes, but no", "yes, it is not"."""
    first = _FIRST.fullmatch(without_preamble(answer).lstrip("\"'*( "))
    if not first or _SAME.get(first[1].casefold()) != reference:
        return False
    rest = first[3]
    if rest and rest[0].isalnum() and not _GOES_ON.match(rest):
        return False
    return not _contradicts(reference, rest)


def _contradicts(word: str, rest: str) -> bool:
    if re.match(r"\.\s*\d", rest):  # "No. 5"
        return True
    if _WRONG.match(rest) or (word == "yes" and _DENIED.match(rest)) or (word == "no" and _AFFIRMED.fullmatch(rest)):
        return True
    # "there is no doubt", "the sign says no entry" contradict nothing.
    harmless = r"(?<!\bis )(?<!\bare )(?<!\bhas )(?<!\bhave )(?<!\bsays )(?<!\bwith )"
    opposite = _OPPOSITE[word]
    return re.search(rf"\b(?:{opposite})\b(?=\W*$)|{harmless}\b(?:{opposite})\b", rest, re.IGNORECASE) is not None
