"""VQA accuracy over ten annotators (TextVQA), and relaxed accuracy (ChartQA)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.scorers.scorer import Scorer, final_answer, given_answer

ENOUGH = 3  # annotators who agree with an answer make it right
RELAXED = 0.05

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_DIGITS = {"none": "0"} | {
    word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_ARTICLES = {"a", "an", "the"}
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't "
    "must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've "
    "something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've wasn't "
    "we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll "
    "who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd "
    "you'd've you'll you're you've"
).split()


def _without_apostrophes() -> dict[str, str]:
    """Every contraction by its spellings with one apostrophe or all of them left out."""
    found = {}
    for word in _CONTRACTIONS:
        parts = word.split("'")
        for gap in range(1, len(parts)):
            found["'".join(parts[:gap]) + "'".join(parts[gap:])] = word
        found["".join(parts)] = word
    return found


_SPELLINGS = _without_apostrophes()


def vqa_text(text: str) -> str:
    """A text as the VQA evaluation cleans it: small letters, no articles or stray marks, small numbers in digits."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or in_number else " ")
    words = (_DIGITS.get(word, word) for word in re.sub(r"\.(?!\d)", "", cleaned).split())
    return " ".join(_SPELLINGS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Mean over the annotators of min(1, those among the others who agree with the answer / 3).

    With ten annotators, one who agrees gives 0.3, two 0.6, three 0.9, four 1. A single annotator is compared alone.
    """
    answer = vqa_text(answer)
    agree = [vqa_text(annotator) == answer for annotator in annotators]
    if len(agree) == 1:
        return float(agree[0])
    scores = [min(1.0, (sum(agree) - itself) / ENOUGH) for itself in agree]
    return sum(scores) / len(scores) if scores else 0.0


def vqa_accuracy_simple(answer: str, annotators: Sequence[str]) -> float:
    """min(1, annotators who agree / 3), none of them left out."""
    answer = vqa_text(answer)
    return min(1.0, sum(vqa_text(annotator) == answer for annotator in annotators) / ENOUGH)


def relaxed(answer: str, reference: str, fold_case: bool = True) -> bool:
    """Whether two numbers differ by at most 5% of the reference, which is not 0; other texts must be equal.

    "5%" is 0.05. What `float` does not take is a text: "1,000", "$5", "5 million".
    """
    given, expected = _number(answer), _number(reference)
    if given is not None and expected:
        return abs(given - expected) / abs(expected) <= RELAXED
    return answer.lower() == reference.lower() if fold_case else answer == reference


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _any(match):
    """A rule that is met by one of the item's answers."""
    return lambda response, item: float(any(match(response, answer) for answer in _references(item)))


def _references(item: Item) -> tuple[str, ...]:
    return item.answers or (item.options[item.right],)


def _as_given(response: str, item: Item) -> str:
    return given_answer(response)


SCORERS = (
    Scorer(
        "vqa",
        lambda response, item: vqa_accuracy(final_answer(response), _references(item)),
        "agreement with the other nine of ten annotators, three are enough",
        "lmms-eval and VLMEvalKit, textvqa",
    ),
    Scorer(
        "vqa-simple",
        lambda response, item: vqa_accuracy_simple(final_answer(response), _references(item)),
        "agreement with three of all ten annotators",
        "big_vision",
    ),
    Scorer(
        "relaxed",
        _any(lambda response, answer: relaxed(final_answer(response), answer.strip())),
        "numbers within 5%, other texts equal but for case",
        "VLMEvalKit, ChartQA",
    ),
    Scorer(
        "relaxed-lmms-eval",
        _any(lambda response, answer: relaxed(given_answer(response), answer)),
        "as relaxed, and white space around a text counts",
        "lmms-eval, chartqa",
        _as_given,
    ),
    Scorer(
        "relaxed-big-vision",
        _any(lambda response, answer: relaxed(given_answer(response), answer, fold_case=False)),
        "as relaxed, and case counts",
        "big_vision, chartqa",
        _as_given,
    ),
)
