"""What several responses to one item come to: the best of k, and the answer that most of them give."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence

from pixel_reasoner_jax.rewards.answers import MAX_ANSWER, clean, judge

MAX_SPELLED = 100  # characters of an answer that is compared by its meaning


def best_of(scores: Sequence[float], k: int) -> float:
    """The expected best score of k of the responses, drawn without replacement.

    For scores of 0 and 1 this is the unbiased estimate of pass@k, 1 - C(n - c, k) / C(n, k) for c right ones of n (Chen
    et al., "Evaluating large language models trained on code", arXiv 2107.03374).

    Raises:
      ValueError: there are not k responses.
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise ValueError(f"the best of {k} of {n} responses")
    # The i-th smallest, counted from 1, is the best of C(i - 1, k - 1) of the choices.
    choices = [math.comb(i, k - 1) for i in range(n)]
    return math.fsum(count * score for count, score in zip(choices, sorted(scores), strict=True)) / math.comb(n, k)


def majority(answers: Sequence[str | None], scores: Sequence[float]) -> tuple[float, bool]:
    """The score of the answer that most responses give, and whether several answers are given equally often.

    Answers are the same if they are written alike, or if the rewards' rules hold one for the other ("1,000" and "1000",
    "B" and "B. red"), without algebra. A response without an answer has no vote, unless none has one. Where several
    answers lead, the score is the mean of theirs: what drawing one of them is expected to give. It does not depend on
    the order of the responses.

    Args:
      answers: taken from the responses.
      scores: of the same responses; an answer's score is the mean of those that give it.
    """
    votes: dict[str, list[float]] = {}
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None:
            votes.setdefault(spelled(answer), []).append(score)
    if not votes:
        return math.fsum(scores) / len(scores), False
    groups = [[score for text in group for score in votes[text]] for group in _same_answers(sorted(votes))]
    most = max(map(len, groups))
    leading = sorted(math.fsum(group) / most for group in groups if len(group) == most)
    return math.fsum(leading) / len(leading), len(leading) > 1


def spelled(answer: str) -> str:
    """An answer as it is compared, in one spelling; a long one is its digest, to take little room."""
    answer = clean(answer) if len(answer) <= MAX_ANSWER else answer
    if len(answer) <= MAX_SPELLED:
        return answer
    return hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()


def _same_answers(texts: Sequence[str]) -> list[list[str]]:
    """Groups of texts: two are together if either is right where the other is the reference, or through others."""
    groups: list[list[str]] = []
    for text in texts:
        joined = [group for group in groups if any(_same(text, other) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([text, *(other for group in joined for other in group)])
    return groups


@functools.lru_cache(2**16)
def _same(a: str, b: str) -> bool:
    return judge(a, b) is True or judge(b, a) is True
