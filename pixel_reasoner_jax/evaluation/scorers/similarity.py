"""ANLS, average normalized Levenshtein similarity: the score of DocVQA and InfographicsVQA, in three variants."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.scorers.scorer import Scorer, final_answer, given_answer

THRESHOLD = 0.5
MAX_CHARACTERS = 1000
"""Longer texts are only compared as they are: the distance takes time quadratic in untrusted text."""

MAX_PARTS, MAX_PARTS_CHARACTERS = 5, 200  # of an answer of several spans whose orders are all tried


def anls(answer: str, references: str | Sequence[str], threshold: float = THRESHOLD) -> float:
    """Average normalized Levenshtein similarity of one answer, in [0, 1].

    The best, over the references, of 1 - edit distance / length of the longer string; a similarity below `threshold`
    counts as 0. Case and runs of white space do not count. Equation 1 of Biten et al., "Scene Text Visual Question
    Answering" (arXiv 1905.13648), with the boundary as in the benchmark's own script: exactly `threshold` counts.
    """
    references = [references] if isinstance(references, str) else references
    return max((_similarity(_plain(answer), _plain(reference), threshold) for reference in references), default=0.0)


def anls_raw(answer: str, references: Sequence[str]) -> float:
    """As `anls`, but over the lengths before white space is taken off: padding raises a similarity."""
    scores = []
    for reference in references:
        longer = max(len(answer), len(reference))
        distance = _bounded_distance(_plain(answer), _plain(reference))
        similarity = 1.0 if not longer else 0.0 if distance is None else 1.0 - distance / longer
        scores.append(similarity if similarity >= THRESHOLD else 0.0)
    return max(scores, default=0.0)


def anls_exclusive(answer: str, references: Sequence[str]) -> float:
    """As `anls`, but exactly half is not enough, and the parts of a reference, split at ", ", may come in any order.

    An empty reference is met by an empty answer alone.
    """
    best = 0.0
    for reference in references:
        parts = reference.split(", ")
        ordered = len(parts) > MAX_PARTS or len(reference) > MAX_PARTS_CHARACTERS
        orders = [parts] if ordered else itertools.permutations(parts)
        for order in orders:
            similarity = _similarity(_plain(answer), _plain(", ".join(order)), THRESHOLD)
            best = max(best, similarity if similarity > THRESHOLD else 0.0)
    return best


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions of one character that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def _bounded_distance(a: str, b: str) -> int | None:
    """The distance; None between different texts one of which is too long to be compared."""
    if a == b:
        return 0
    return edit_distance(a, b) if max(len(a), len(b)) <= MAX_CHARACTERS else None


def _similarity(a: str, b: str, threshold: float) -> float:
    longer, shorter = max(len(a), len(b)), min(len(a), len(b))
    if not longer:
        return 1.0
    if shorter / longer < threshold:  # no edit can save it
        return 0.0
    distance = _bounded_distance(a, b)
    similarity = 0.0 if distance is None else 1.0 - distance / longer
    return similarity if similarity >= threshold else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _references(item: Item) -> tuple[str, ...]:
    return item.answers or (item.options[item.right],)


SCORERS = (
    Scorer(
        "anls",
        lambda response, item: anls(final_answer(response), _references(item)),
        "similarity over plain lengths; exactly 0.5 counts",
    ),
    Scorer(
        "anls-raw",
        lambda response, item: anls_raw(given_answer(response), _references(item)),
        "similarity over lengths with white space: padding raises it; exactly 0.5 counts",
        "lmms-eval and VLMEvalKit",
        lambda response, item: given_answer(response),
    ),
    Scorer(
        "anls-exclusive",
        lambda response, item: anls_exclusive(given_answer(response), _references(item)),
        "similarity above 0.5; spans of a reference in any order",
        "big_vision, after arXiv 1907.00490",
        lambda response, item: given_answer(response),
    ),
)
