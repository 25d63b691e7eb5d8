"""Words around a number that make another claim than that it is the answer."""

from __future__ import annotations

import re

_ANYWHERE = (
    # not quite this number
    "about approximately around roughly circa nearly almost beyond between exceed exceeds"
    " exceeding minimum maximum upwards? onwards? at_least at_most up_to north_of as_many_as and_up and_rising"
    " and_counting and_more and_then_some (?:more|less|fewer|greater|smaller|other|rather)_than"
    # or another
    " or either perhaps maybe possibly versus vs"
    # not this number
    " not isn't aren't wasn't weren't doesn't don't can't cannot never nor neither without except besides excluded"
    " anything_but wrong incorrect false"
    # a number that is made of it
    " hundredths? tenths? thousandths? halves squared cubed factorial pairs? tens twos dozens? gross crores? lakhs?"
    " twice double triple negative ish (?:root|half|third|multiple|square|power)_of"
)
_WORDS = "|".join(_ANYWHERE.split()).replace("_", r"\s+")
_HEDGE = re.compile(rf"\b(?:{_WORDS})\b|[‰|~≈\d]", re.IGNORECASE)
_BEFORE = re.compile(
    r"\b(?:no|before|after|until|since|over|under|above|below|times|plus|minus)\s*$|[<>≤≥≠±+*×|-]\s*\(?\s*$",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"\s*(?:(?:less|off|fewer|bce?|plus|minus|times\s+\d|(?:and|or)\s+(?:over|under|above|below)|(?:over|under|above|below)\s*$)\b|[<>≤≥≠±+]|-\s*$)",
    re.IGNORECASE,
)


def hedged(before: str, after: str) -> bool:
    """Whether what stands before and after a number says "at least", "or", "not", "squared" or the like."""
    return any(map(_HEDGE.search, (before, after))) or bool(_BEFORE.search(before) or _AFTER.match(after))
