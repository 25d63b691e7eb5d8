"""Figures of an evaluation: accuracy, the rate of pixel-space reasoning, operations, and ANLS."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pixel_reasoner_jax.trajectory import Ended, Source, Trajectory


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One response as the figures count it: its score, the number of its calls, and how many of them failed."""

    score: float
    calls: int = 0
    failed: int = 0

    @classmethod
    def of(cls, trajectory: Trajectory, score: float) -> Outcome:
        failed = sum(not record.succeeded for record in trajectory.operations)
        return cls(float(score), len(trajectory.operations), failed)


def is_without_room(trajectory: Trajectory) -> bool:
    """Whether the prompt left no room for a first token of the response."""
    return trajectory.ended == Ended.LENGTH and not (trajectory.source == Source.SAMPLED).any()


def figures(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """The figures of an evaluation.

    Args:
      outcomes: one for each response, at least one.

    Returns:
      `accuracy`: mean score (1 right, 0 wrong; ANLS may lie between).
      `rapr`: rate of pixel-space reasoning, the share of responses with at least one successful operation.
      `operations`: calls per response, failed ones included.
      `failure_rate`: share of the calls that failed; None when no call was made.

    Raises:
      ValueError: there are no outcomes.
    """
    if not outcomes:
        raise ValueError("no responses to evaluate: the list of outcomes is empty")
    calls = sum(outcome.calls for outcome in outcomes)
    return {
        "accuracy": sum(outcome.score for outcome in outcomes) / len(outcomes),
        "rapr": sum(outcome.calls > outcome.failed for outcome in outcomes) / len(outcomes),
        "operations": calls / len(outcomes),
        "failure_rate": sum(outcome.failed for outcome in outcomes) / calls if calls else None,
    }


def anls(answer: str, references: str | Sequence[str], threshold: float = 0.5) -> float:
    """Average normalized Levenshtein similarity of one answer, the score of InfographicsVQA, in [0, 1].

    The best, over the references, of 1 - edit distance / length of the longer string; a similarity below `threshold`
    counts as 0. Case and runs of white space do not count. Equation 1 of Biten et al., "Scene Text Visual Question
    Answering" (arXiv 1905.13648), with the boundary as in the benchmark's own script: exactly `threshold` counts.
    """
    references = [references] if isinstance(references, str) else references
    return max((_similarity(_plain(answer), _plain(reference), threshold) for reference in references), default=0.0)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions of one character that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def _similarity(a: str, b: str, threshold: float) -> float:
    longer, shorter = max(len(a), len(b)), min(len(a), len(b))
    if not longer:
        return 1.0
    if shorter / longer < threshold:  # no edit can save it, and the distance takes time quadratic in untrusted text
        return 0.0
    similarity = 1.0 - edit_distance(a, b) / longer
    return similarity if similarity >= threshold else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
