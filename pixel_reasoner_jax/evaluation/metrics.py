"""Figures of an evaluation: accuracy, the rate of pixel-space reasoning, and operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pixel_reasoner_jax.trajectory import Trajectory


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


def figures(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """The figures of a few responses, such as those of one step of training.

    Args:
      outcomes: one for each response, at least one.

    Returns:
      `accuracy`: mean score (1 right, 0 wrong; ANLS may lie between), and those of `operation_figures`.

    Raises:
      ValueError: there are no outcomes.
    """
    if not outcomes:
        raise ValueError("no responses to evaluate: the list of outcomes is empty")
    accuracy = sum(outcome.score for outcome in outcomes) / len(outcomes)
    calls, failed = np.array([(outcome.calls, outcome.failed) for outcome in outcomes]).T
    return {"accuracy": accuracy, **operation_figures(calls, failed)}


def operation_figures(calls: np.ndarray, failed: np.ndarray) -> dict[str, float | None]:
    """How operations are used.

    Args:
      calls, failed: of each response, the number of its calls, failed ones included, and of the failed ones.

    Returns:
      `rapr`: rate of pixel-space reasoning, the share of responses with at least one successful operation.
      `operations`: calls per response, failed ones included.
      `failure_rate`: share of the calls that failed; None when no call was made.
      All are None when there are no responses.
    """
    if not len(calls):
        return {"rapr": None, "operations": None, "failure_rate": None}
    total = int(calls.sum())
    return {
        "rapr": int((calls > failed).sum()) / len(calls),
        "operations": total / len(calls),
        "failure_rate": int(failed.sum()) / total if total else None,
    }
