"""Group-relative advantages (GRPO, Shao et al. 2024), on the host."""

from __future__ import annotations

import numpy as np

UNIFORM_TOLERANCE = 1e-6  # rewards are sums of a few decimals; differences below this are rounding


def group_advantages(rewards: np.ndarray, *, normalize_std: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rewards relative to the mean of their group.

    Args:
      rewards: [queries, samples].
      normalize_std: divide by the group's (population) standard deviation as well. Pixel Reasoner does not: that would
        scale a small curiosity bonus up to the size of a correct answer.

    Returns:
      Advantages, float32 [queries, samples], exactly 0 in uniform groups; and whether each group is uniform, bool
      [queries]. All rewards of a uniform group are equal, so nothing can be learned from it.

    Raises:
      ValueError: the rewards are not a matrix with at least one column, or not finite.
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 2 or rewards.shape[1] == 0:
        raise ValueError(f"rewards must be [queries, samples] with at least one sample, got shape {rewards.shape}")
    if not np.isfinite(rewards).all():
        raise ValueError(
            f"rewards must be finite; rows {np.flatnonzero(~np.isfinite(rewards).all(1)).tolist()} are not"
        )
    uniform = np.ptp(rewards, axis=1) <= UNIFORM_TOLERANCE
    advantages = rewards - rewards.mean(axis=1, keepdims=True)
    if normalize_std:
        advantages /= np.where(uniform, 1.0, rewards.std(axis=1))[:, None]
    return np.where(uniform[:, None], 0.0, advantages).astype(np.float32), uniform
