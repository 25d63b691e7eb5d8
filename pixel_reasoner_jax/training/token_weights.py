"""What policy losses take for every token beside log-probabilities and advantages: on the host, in numpy.

The arrays are one-dimensional: the trained tokens of an update in this process, one sequence after the other, or its
sequences. What depends on all tokens of the update is agreed on with the other processes, which call this together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.parallel import all_gather

MAX_LOG_RATIO = 20.0  # as in `losses`: e**20 is no likely ratio, and its products stay finite


@dataclasses.dataclass(frozen=True)
class Size:
    """How many trained tokens an update has, and how many sequences with any, in all processes."""

    tokens: int
    sequences: int

    @classmethod
    def of(cls, lengths: np.ndarray) -> Size:
        """That of sequences with so many trained tokens in this process, and those of the others."""
        return cls(*all_gather(np.array([lengths.sum(), (lengths > 0).sum()], np.int32)).sum(axis=0).tolist())


def token_mean(lengths: np.ndarray, size: Size, settings: ConfigDict) -> np.ndarray:
    """All tokens weigh the same: the sum over the update's tokens by their number (DAPO)."""
    return np.ones(len(lengths))


def sequence_mean(lengths: np.ndarray, size: Size, settings: ConfigDict) -> np.ndarray:
    """All sequences weigh the same: the mean over sequences of the means over their tokens (GRPO, GSPO)."""
    return size.tokens / (size.sequences * np.maximum(lengths, 1))


def constant_length(lengths: np.ndarray, size: Size, settings: ConfigDict) -> np.ndarray:
    """The mean over sequences of the sums over their tokens, by a constant length (Dr. GRPO)."""
    return np.full(len(lengths), size.tokens / (size.sequences * settings.constant_length))


AGGREGATIONS = {"token_mean": token_mean, "sequence_mean": sequence_mean, "constant_length": constant_length}
"""By the name in `config.grpo.aggregation`, or `module:name`: functions of the sequences' numbers of trained tokens,
the update's `Size` and `config.grpo`. They return the weight of each sequence's tokens, by which the mean over the
update's tokens becomes another one."""


def truncated_ratios(log_ratios: np.ndarray, lengths: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """TIS: the ratio, at most the upper bound (Yao et al. 2025)."""
    return np.minimum(_exp(log_ratios), bounds[1])


def bounded_ratios(log_ratios: np.ndarray, lengths: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """MIS: the ratio where it is within the bounds, else 0."""
    return _within(_exp(log_ratios), bounds)


def truncated_products(log_ratios: np.ndarray, lengths: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """TIS of sequences: the product of a sequence's ratios for all of its tokens, at most the upper bound."""
    return np.repeat(np.minimum(_exp(_sums(log_ratios, lengths)), bounds[1]), lengths)


def bounded_products(log_ratios: np.ndarray, lengths: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """MIS of sequences: that product where it is within the bounds, else 0."""
    return np.repeat(_within(_exp(_sums(log_ratios, lengths)), bounds), lengths)


def geometric(log_ratios: np.ndarray, lengths: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """1 for the tokens of a sequence the geometric mean of whose ratios is within the bounds, else 0."""
    means = _exp(sequence_means(log_ratios, lengths))
    return np.repeat((_within(means, bounds) > 0).astype(float), lengths)


CORRECTIONS = {
    "tis": truncated_ratios,
    "mis": bounded_ratios,
    "sequence_tis": truncated_products,
    "sequence_mis": bounded_products,
    "geometric": geometric,
}
"""By the name in `config.grpo.correction`, or `module:name`: functions of the tokens' log-ratios, trainer by sampler,
of the sequences' numbers of tokens, and of `config.grpo.correction_bounds`. They return the weight of each token."""


def sequence_means(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The mean of each sequence's values, float64; 0 for one without any."""
    return _sums(values, lengths) / np.maximum(lengths, 1)


def sequence_ratios(logprobs: np.ndarray, old: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """GSPO's: of every token, the geometric mean of the ratios of its sequence's tokens."""
    return np.repeat(_exp(sequence_means(logprobs - old.astype(np.float64), lengths)), lengths)


def clipped(log_ratios: np.ndarray, advantages: np.ndarray, clip_low: float, clip_high: float) -> np.ndarray:
    """Whether the clip of `losses.clip` takes a token's gradient, bool: its ratio has gone its advantage's way."""
    ratios = _exp(log_ratios)
    return np.where(advantages > 0, ratios > 1 + clip_high, (advantages < 0) & (ratios < 1 - clip_low))


def covariances(logprobs: np.ndarray, advantages: np.ndarray, size: Size) -> np.ndarray:
    """(A - mean A)(logprob - mean logprob) of every token, with the means over the whole update (Cui et al. 2025)."""
    sums = [values.sum(dtype=np.float64) for values in (advantages, logprobs)]
    means = all_gather(np.array(sums)).sum(axis=0) / size.tokens
    return (advantages - means[0]) * (logprobs - means[1])


def top_share(values: np.ndarray, share: float, size: Size) -> np.ndarray:
    """Whether each token's value is among the largest `share` of all tokens' values, at least one; ties count."""
    values = values.astype(np.float32)
    return values >= _kth_largest(values, _count(share, size))


def drawn_between(
    values: np.ndarray,
    bounds: tuple[float, float],
    share: float,
    size: Size,
    shards: np.ndarray,
    seed: Sequence[int],
) -> np.ndarray:
    """Draws tokens out of those whose values lie between the bounds: so many that they are a share of all tokens.

    Args:
      values: of the tokens.
      bounds: exclusive.
      share: of all tokens of the update; at least one token is drawn, where there is any between the bounds.
      size: of the update.
      shards: the shard of each token.
      seed: of the draw. What is drawn depends on the shards' tokens, not on who serves the shards.

    Returns:
      bool, whether each token is drawn.
    """
    keys = np.zeros(len(values), np.float32)
    for shard in np.unique(shards).tolist():
        of_shard = shards == shard
        keys[of_shard] = np.random.default_rng((*seed, shard)).random(of_shard.sum(), np.float32)
    between = (values > bounds[0]) & (values < bounds[1])
    return between & (keys >= _kth_largest(np.where(between, keys, -1.0), _count(share, size)))


def _count(share: float, size: Size) -> int:
    return max(int(share * size.tokens + 1e-6), 1)  # 0.29 * 100 is a little less than 29


def _kth_largest(values: np.ndarray, count: int) -> np.float32:
    """The `count`-th largest of the values of all processes, in float32; -inf where there are fewer."""
    largest = np.full(count, -np.inf, np.float32)
    top = np.sort(values.astype(np.float32))[::-1][:count]
    largest[: len(top)] = top
    return np.sort(all_gather(largest).ravel())[::-1][count - 1]


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The sum of each sequence's values, float64."""
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths), values, minlength=len(lengths))


def _within(ratios: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return np.where((ratios >= bounds[0]) & (ratios <= bounds[1]), ratios, 0.0)


def _exp(log_ratios: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(log_ratios, -MAX_LOG_RATIO, MAX_LOG_RATIO))
