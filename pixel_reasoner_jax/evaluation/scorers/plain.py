"""Scorers of open answers: our own, plain equality, and the released Pixel Reasoner code's."""

from __future__ import annotations

import re

from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.scorers.scorer import Scorer, final_answer, is_right
from pixel_reasoner_jax.rewards import marked_answer
from pixel_reasoner_jax.rewards.answers import judge

_OUTER = re.compile(r"^[\W_]+|[\W_]+$")
_UNITS = re.compile("minutes|cm")


def score_answer(response: str, item: Item) -> float:
    """Our own rule, as in training: equality by the kind of the reference."""
    return float(is_right(final_answer(response), item.reference))


def score_exact(response: str, item: Item) -> float:
    """The same letters and digits: case, runs of white space and marks around the answer do not count."""
    references = item.answers or (item.letter or "", item.options[item.right])
    return float(_plain(final_answer(response)) in {_plain(reference) for reference in references})


def _plain(text: str) -> str:
    text = " ".join(text.casefold().split())
    return _OUTER.sub("", text) or text


def score_release(response: str, item: Item) -> float:
    r"""The released code's `rule_reward`: what the last \boxed{} holds, by its loose rules.

    References are in small letters, "12%" also accepts "12"; a reference with commas is met where all its parts stand
    behind the last "boxed", which its authors say over-estimates. A choice is its letter. Without a box: wrong.
    """
    if "boxed" not in response:
        return 0.0
    behind = response.rsplit("boxed", 1)[1].lower()
    answer = _normal(marked_answer(response) or "") if "\\boxed" in response else ""
    references = [item.letter] if item.right is not None else item.answers
    for reference in (reference.lower() for reference in references):
        spellings = [reference.replace("%", ""), reference] if "%" in reference else [reference]
        if any(_equal(answer, _normal(spelling)) for spelling in spellings):
            return 1.0
        parts = [part.strip() for part in reference.split(",")]
        if len(parts) > 1 and all(part in behind for part in parts):
            return 1.0
    return 0.0


def _normal(text: str) -> str:
    return _UNITS.sub("", text.lower()).strip()


def _equal(answer: str, reference: str) -> bool:
    verdict = judge(answer, reference, "release")
    return is_right(answer, reference) if verdict is None else verdict


SCORERS = (
    Scorer("answer", score_answer, "equality by the kind of the reference, as in training"),
    Scorer("exact", score_exact, "the same words: case, white space and marks around them do not count"),
    Scorer(
        "pixel-reasoner",
        score_release,
        r"what the last \boxed{} holds; a list is met where all parts stand behind it",
        "released Pixel Reasoner code",
    ),
)
