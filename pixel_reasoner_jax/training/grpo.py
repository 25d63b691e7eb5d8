"""From groups of finished trajectories to what the update trains on: rewards, advantages, figures (no device here)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.evaluation.metrics import Outcome, figures
from pixel_reasoner_jax.rewards import AnswerPool, RewardTerms, reward_terms
from pixel_reasoner_jax.training.advantages import group_advantages
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Judged:
    """Groups of trajectories with their rewards.

    Attributes:
      groups: G trajectories for every query.
      terms: the reward's terms, [queries, G].
      advantages: float32 [queries, G].
      uniform: bool [queries], groups whose rewards are all alike.
    """

    groups: list[list[Trajectory]]
    terms: RewardTerms
    advantages: np.ndarray
    uniform: np.ndarray

    def sequences(self) -> list[Sequence]:
        """What there is to learn from: the responses of every group that is not uniform, group by group."""
        return [
            Sequence.of(trajectory, float(advantage))
            for group, advantages, uniform in zip(self.groups, self.advantages, self.uniform, strict=True)
            if not uniform
            for trajectory, advantage in zip(group, advantages, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Figures of the episode, means over its responses."""
        trajectories = [trajectory for group in self.groups for trajectory in group]
        sampled = [int(trajectory.train.sum()) for trajectory in trajectories]
        summary = figures([*map(Outcome.of, trajectories, self.terms.correct.ravel())])
        return {
            "reward": float(self.terms.total.mean()),
            "reward_correct": float(self.terms.correct.mean()),
            "reward_bonus": float(self.terms.bonus.mean()),
            "reward_penalty": float(self.terms.penalty.mean()),
            **{name: value for name, value in summary.items() if value is not None},
            "response_tokens": float(np.mean(sampled)),
            "truncated": float(np.mean([trajectory.ended != "answer" for trajectory in trajectories])),
            "uniform_groups": float(self.uniform.mean()),
        }


def judge(groups: Seq[Seq[Trajectory]], pool: AnswerPool, curiosity: ConfigDict, normalize_std: bool) -> Judged:
    """Scores every response and compares it with its group.

    Args:
      groups: G trajectories for every query.
      pool: scores answers.
      curiosity: `variant`, `alpha`, `beta`, `rate_floor`, `max_operations`; see `rewards.reward_terms`.
      normalize_std: divide advantages by the group's standard deviation.
    """
    groups = [list(group) for group in groups]
    flat = [trajectory for group in groups for trajectory in group]
    answers = [(trajectory.response, trajectory.reference) for trajectory in flat]
    correct = np.array(pool.score(answers, [trajectory.recovered for trajectory in flat])).reshape(len(groups), -1)
    operations = np.array([[len(trajectory.operations) for trajectory in group] for group in groups])
    succeeded = np.array(
        [[sum(record.succeeded for record in trajectory.operations) for trajectory in group] for group in groups]
    )
    video = np.array([group[0].media[:1] != [] and group[0].media[0].kind == "video" for group in groups])
    terms = reward_terms(
        correct,
        operations,
        succeeded,
        curiosity.alpha,
        curiosity.beta,
        curiosity.rate_floor,
        curiosity.max_operations,
        variant=curiosity.variant,
        video=video,
    )
    advantages, uniform = group_advantages(terms.total, normalize_std=normalize_std)
    return Judged(groups, terms, advantages, uniform)
