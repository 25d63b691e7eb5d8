"""The curiosity-driven reward of Pixel Reasoner (arXiv 2505.15966, section 4), on the host.

    r'(x, y) = r(x, y) + alpha * max(H - RaPR(x), 0) * 1_PR(y) + beta * min(N - n_vo(y), 0)

RaPR(x), the rate of pixel-space reasoning, is the share of a query's responses that use visual operations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pixel_reasoner_jax.config_values import CURIOSITY_VARIANTS as VARIANTS
from pixel_reasoner_jax.errors import UserError


class RewardTerms(NamedTuple):
    """The terms of the shaped reward, float64 [queries, samples], and the rate that determines the bonus.

    Attributes:
      correct: r(x, y), 1 for a right answer.
      bonus: the curiosity term, never negative.
      penalty: the efficiency term, never positive.
      rate: RaPR(x), [queries].
    """

    correct: np.ndarray
    bonus: np.ndarray
    penalty: np.ndarray
    rate: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """r'(x, y), [queries, samples]."""
        return self.correct + self.bonus + self.penalty


def reward_terms(
    correct: np.ndarray,
    operations: np.ndarray,
    succeeded: np.ndarray | None = None,
    alpha: float = 0.5,
    beta: float = 0.05,
    rate_floor: float = 0.3,
    max_operations: int = 1,
    *,
    variant: str = "paper",
    video: np.ndarray | None = None,
) -> RewardTerms:
    """The terms of `shaped_reward`, for metrics and reports.

    Args:
      correct: r(x, y), [queries, samples], usually 0 or 1.
      operations: n_vo(y), the calls each response made, [queries, samples].
      succeeded: calls of each response that succeeded (or whether one did), [queries, samples]; `operations` if None.
        A response reasons in pixel space when it has at least one.
      alpha, beta: weights of the bonus and of the penalty.
      rate_floor: H; the bonus is 0 for queries whose RaPR is at least this.
      max_operations: N, the number of calls without a penalty.
      variant: "paper" is the equation above. "release" is the published code's: the bonus is
        alpha / 2 * max(H - RaPR, 0) / RaPR, divided by 2 for images and by 1.5 for videos, and calls that failed
        count towards RaPR (`succeeded` is not used).
      video: whether each query is a video, bool [queries]; None: all are images. Only the release's bonus uses it.

    Raises:
      UserError: an unknown variant.
      ValueError: shapes that do not match.
    """
    correct = np.asarray(correct, np.float64)
    operations = np.asarray(operations)
    if variant not in VARIANTS:
        raise UserError(f"unknown curiosity variant {variant!r}; known: {', '.join(VARIANTS)}")
    succeeded = operations if succeeded is None else np.asarray(succeeded)
    if correct.ndim != 2 or not correct.shape == operations.shape == succeeded.shape:
        raise ValueError(
            "correct, operations and succeeded must have one shape [queries, samples], "
            f"got {correct.shape}, {operations.shape} and {succeeded.shape}"
        )
    video = np.zeros(len(correct), bool) if video is None else np.asarray(video, bool)
    if video.shape != correct.shape[:1]:
        raise ValueError(f"video must be [queries] = {correct.shape[:1]}, got {video.shape}")

    in_pixels = reasons_in_pixels(operations, succeeded, variant)
    rate = in_pixels.mean(axis=1)
    bonus = curiosity_bonus(in_pixels, rate, alpha, rate_floor, variant, video)
    return RewardTerms(correct, bonus, operation_penalty(operations, beta, max_operations), rate)


def reasons_in_pixels(operations: np.ndarray, succeeded: np.ndarray, variant: str) -> np.ndarray:
    """1_PR(y), bool: whether a response has a call that succeeded; for the release, a call at all."""
    return (operations if variant == "release" else succeeded) > 0


def curiosity_bonus(
    in_pixels: np.ndarray, rate: np.ndarray, alpha: float, rate_floor: float, variant: str, video: np.ndarray
) -> np.ndarray:
    """The bonus, float64 [queries, samples].

    Args:
      in_pixels: 1_PR(y), bool [queries, samples].
      rate: RaPR, [queries].
      alpha, rate_floor, variant, video: see `reward_terms`.
    """
    coefficient = alpha * np.maximum(rate_floor - rate, 0.0)
    if variant == "release":
        # Where the rate is 0, no response gets the bonus, so any divisor will do.
        coefficient = coefficient / 2 / np.where(rate > 0, rate, 1.0) / np.where(video, 1.5, 2.0)
    return coefficient[:, None] * in_pixels


def operation_penalty(operations: np.ndarray, beta: float, max_operations: int) -> np.ndarray:
    """The penalty for calls, float64 [queries, samples]."""
    return (beta * np.minimum(max_operations - operations, 0)).astype(np.float64)


def shaped_reward(
    correct: np.ndarray,
    operations: np.ndarray,
    succeeded: np.ndarray | None = None,
    alpha: float = 0.5,
    beta: float = 0.05,
    rate_floor: float = 0.3,
    max_operations: int = 1,
    *,
    variant: str = "paper",
    video: np.ndarray | None = None,
) -> np.ndarray:
    """r'(x, y), float64 [queries, samples]: the sum of correctness, curiosity bonus and penalty.

    Arguments and errors are those of `reward_terms`.
    """
    return reward_terms(
        correct, operations, succeeded, alpha, beta, rate_floor, max_operations, variant=variant, video=video
    ).total
