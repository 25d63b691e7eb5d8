"""MME-RealWorld's rule, which Video-MME uses too: the first capital letter of an option, after certain phrases."""

from __future__ import annotations

import re

from pixel_reasoner_jax.evaluation.benchmarks.items import LETTERS, Item
from pixel_reasoner_jax.evaluation.scorers.scorer import Scorer, by_letter, given_answer

PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    # A comma is missing between each two of these in the published code, so that the four alone are not removed.
    "The best option is" + "The correct option is",
    "Best answer:" + "Best option:",
)
MANY_WORDS = 10


def first_capital(text: str, item: Item) -> str | None:
    """The letter by the published rule; an empty reply is contained in the first option, and so chooses it."""
    text = text.strip()
    for phrase in PHRASES:
        text = text.replace(phrase, "")
    if match := re.search(f"[{item.letters or 'A-E'}]", text):
        return match[0]
    if len(text.split()) > MANY_WORDS:
        return None
    listed = (f"({letter}) {option}".lower() for letter, option in zip(LETTERS, item.options, strict=False))
    return next((LETTERS[index] for index, option in enumerate(listed) if text.lower() in option), None)


def score_lmms_eval(response: str, item: Item) -> float:
    """As the published rule; a reply that contains the right letter anywhere is right too."""
    text = given_answer(response)
    return float(item.letter is not None and (item.letter in text or first_capital(text, item) == item.letter))


SCORERS = (
    Scorer(
        "mme-realworld",
        says="the first capital letter of an option, some phrases left out; an empty reply is the first option",
        source="MME-RealWorld, eval_your_results; Video-MME",
        **by_letter(first_capital),
    ),
    Scorer(
        "mme-realworld-lmms-eval",
        score_lmms_eval,
        "as mme-realworld, or the right letter anywhere in the reply",
        "lmms-eval, mme_realworld",
        lambda response, item: first_capital(given_answer(response), item),
    ),
)
