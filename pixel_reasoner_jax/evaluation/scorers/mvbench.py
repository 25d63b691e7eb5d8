"""MVBench's letter rules. An empty reply is right for its authors, left out by lmms-eval, wrong by our own rule."""

from __future__ import annotations

import re

from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.scorers.scorer import Scorer, given_answer

_LABELLED = re.compile(r"([A-E])\.\s*.+", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(r"\b([A-E])\b", re.IGNORECASE)
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")


def score_authors(response: str, item: Item) -> float:
    """The authors' check: the first word of the reply is a part of "(b)", or "(b)" is a part of it.

    An empty reply is a part of everything, and so are "(" and ")".
    """
    if item.letter is None:
        return 0.0
    given = given_answer(response).lower().split(" ")[0].replace(".", "")
    right = f"({item.letter.lower()})"
    return float(given in right or right in given)


def lmms_eval_letter(text: str) -> str | None:
    """The letter by lmms-eval's rule: "B. text", else the first letter A-E that stands alone, be it an article."""
    text = text.strip()
    if "\n" not in text and (match := _LABELLED.fullmatch(text)):
        return match[1].upper()
    text = text.replace("\n", " ").replace("\t", " ")
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or in_number else " ")
    match = _ALONE.search(re.sub(r"\.(?!\d)", "", cleaned))
    return match[1].upper() if match else None


def score_lmms_eval(response: str, item: Item) -> float | None:
    """lmms-eval's rule; an empty reply leaves the figure, also its denominator."""
    text = given_answer(response)
    if not text:
        return None
    return float(item.letter is not None and lmms_eval_letter(text) == item.letter)


SCORERS = (
    Scorer(
        "mvbench-authors",
        score_authors,
        'the first word is a part of "(b)" or the reverse; an empty reply counts as right',
        "Ask-Anything, mvbench.ipynb (VLMEvalKit the same)",
        lambda response, item: given_answer(response),
    ),
    Scorer(
        "mvbench-lmms-eval",
        score_lmms_eval,
        'the letter of "B. text" or the first letter A-E alone; an empty reply is left out of the figure',
        "lmms-eval, mvbench",
        lambda response, item: lmms_eval_letter(given_answer(response)),
    ),
)
