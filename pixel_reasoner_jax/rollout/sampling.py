"""Choosing the next token.

A response never depends on the other responses of its batch: the random key of every token comes from
(seed, query id, sample index, index of the token in the response) alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.rollout.truncation import least_kept

BLOCK = 128  # tokens of a block of the vocabulary; `draw` chooses a block first, and then a token within it


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How the tokens of a turn are drawn.

    Attributes:
      temperature: 0 is greedy.
      top_p: the likeliest tokens are kept until their probabilities add up to this; 1 keeps all.
      top_k: number of likeliest tokens kept; 0 keeps all.
      repetition_penalty: the logits of tokens that the conversation holds already are divided by this, negative ones
        multiplied (Keskar et al., 2019, CTRL); 1 leaves them.
      forbidden_tokens: ids that are not drawn, beside those that no policy may draw; for all turns.
      stop_strings: a turn ends with the token that completes one of these texts, wherever its tokens begin; for all
        turns.
      max_turn_tokens: a turn ends after this many tokens at the latest; None for no such limit; for all turns.
      later: the settings of every turn after the first; None for those of the first. The released code samples the
        first turn at temperature 1.0 and later turns at 0.9.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    forbidden_tokens: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    max_turn_tokens: int | None = None
    later: SamplingSettings | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature must be 0 (greedy) or a positive number, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise UserError(f"top_k must be 0 (all) or positive, got {self.top_k}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"repetition_penalty must be positive, 1 for none, got {self.repetition_penalty}")
        if self.max_turn_tokens is not None and self.max_turn_tokens < 1:
            raise UserError(f"max_turn_tokens must be at least 1, got {self.max_turn_tokens}")
        if isinstance(self.stop_strings, str) or not all(self.stop_strings):
            raise UserError(f"stop_strings must be a list of texts, none empty, got {self.stop_strings!r}")
        object.__setattr__(self, "forbidden_tokens", tuple(map(int, self.forbidden_tokens)))
        object.__setattr__(self, "stop_strings", tuple(self.stop_strings))
        if self.later is not None:
            if self.later.later is not None:
                raise UserError("later settings hold for all later turns; they have no later ones of their own")
            for name in _COMMON:
                if getattr(self.later, name) not in (getattr(self, name), getattr(SamplingSettings, name)):
                    raise UserError(f"{name} is set once for all turns, not in later")

    def turn(self, turn: int) -> SamplingSettings:
        """The settings of a turn, whose number counts from 0."""
        return self if turn == 0 or self.later is None else self.later

    @property
    def filtered(self) -> bool:
        """Whether any turn uses top-p or top-k."""
        return any(one.top_p < 1 or one.top_k > 0 for one in (self, self.later or self))

    @property
    def penalized(self) -> bool:
        """Whether any turn has a repetition penalty."""
        return any(one.repetition_penalty != 1 for one in (self, self.later or self))


def chosen_sampling(samples: int, temperature: float | None, sampling: SamplingSettings | None) -> SamplingSettings:
    """The settings that a rollout's arguments come to: `sampling`, or those of a temperature, 1 unless given.

    Raises:
      UserError: fewer than one sample, or both a temperature and settings.
    """
    if samples < 1:
        raise UserError(f"samples must be at least 1, got {samples}")
    if sampling is None:
        return SamplingSettings(1.0 if temperature is None else temperature)
    if temperature is not None:
        raise UserError("give temperature or sampling, which has a temperature of its own, not both")
    return sampling


def with_stop_strings(sampling: SamplingSettings, strings: tuple[str, ...]) -> SamplingSettings:
    """The settings with more texts that end a turn."""
    if not strings:
        return sampling
    stop_strings = (*sampling.stop_strings, *strings)
    later = sampling.later and dataclasses.replace(sampling.later, stop_strings=())
    return dataclasses.replace(sampling, stop_strings=stop_strings, later=later)


_COMMON = ("forbidden_tokens", "stop_strings", "max_turn_tokens")


class SlotSampling(NamedTuple):
    """The sampling settings of each slot's present turn, each an array [slots].

    `budget` is how many tokens a slot may sample; 0 leaves the slot out. See `SamplingSettings` for the others.
    """

    budget: Int[Array, " slots"]
    temperature: Float[Array, " slots"]
    top_p: Float[Array, " slots"]
    top_k: Int[Array, " slots"]
    repetition_penalty: Float[Array, " slots"]

    @classmethod
    def of(cls, settings: Sequence[SamplingSettings], budget: Sequence[int]) -> SlotSampling:
        """Makes the arrays from the settings and the budget of every slot."""
        columns = [
            np.array([getattr(one, name) for one in settings], np.int32 if name == "top_k" else np.float32)
            for name in cls._fields[1:]
        ]
        return cls(np.array(budget, np.int32), *columns)


def sample_seeds(seed: int | Sequence[int], query_ids: Sequence[str], samples: Sequence[int]) -> np.ndarray:
    """The seeds that `sample_keys` makes random keys of, uint32 [slots, 3].

    Args:
      seed: of the rollout, or of each slot.
      query_ids, samples: query id and sample index of each slot.
    """
    digests = (hashlib.blake2s(str(query_id).encode(), digest_size=4).digest() for query_id in query_ids)
    hashes = np.array([int.from_bytes(digest, "big") for digest in digests], np.uint32)
    seeds = np.array(np.asarray(seed, object) % 2**32, np.uint32)
    return np.stack([np.broadcast_to(seeds, hashes.shape), hashes, np.asarray(samples, np.uint32)], axis=1)


@jax.vmap
def sample_keys(seeds: UInt32[Array, "slots 3"]) -> UInt32[Array, "slots 2"]:
    """Key data of each slot's random key; the key of a token is this one with the token's index folded in."""
    seed, query, sample = seeds
    return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), query), sample))


def sampling_logits(
    logits: Float[Array, "slots vocab"],
    sampling: SlotSampling,
    seen: Bool[Array, "slots vocab"] | None,
    filtered: bool,
) -> Float[Array, "slots vocab"]:
    """The logits of the distribution that tokens are drawn from: penalized, tempered, then top-k, then top-p.

    Args:
      logits: the model's logits, -inf for forbidden tokens.
      sampling: the settings of every slot. A temperature of 0 leaves the logits as they are; `draw` then takes the
        likeliest token.
      seen: which tokens the conversation holds; None without a repetition penalty.
      filtered: whether some slot uses top-p or top-k.
    """
    if seen is not None:
        penalty = sampling.repetition_penalty[:, None]
        logits = jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)
    logits = logits / jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)[:, None]
    if filtered:
        least = least_kept(logits, sampling.top_k, sampling.top_p)
        logits = jnp.where(logits < least[:, None], -jnp.inf, logits)
    return logits


def draw(
    logits: Float[Array, "slots vocab"],
    keys: UInt32[Array, "slots 2"],
    token_index: Int[Array, " slots"],
    temperature: Float[Array, " slots"],
) -> tuple[Int[Array, " slots"], Float[Array, " slots"]]:
    """Draws a token for every slot from `sampling_logits` and returns it with its log-probability.

    Inverse transform sampling in two steps: the first block of `BLOCK` tokens, and then the first token of this block,
    whose cumulative weight exceeds a uniform number. Two numbers are enough, where the Gumbel trick takes one for each
    token of the vocabulary; and in two steps float32 resolves even the rarest token.
    """
    highest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    blocks = jnp.pad(weights, ((0, 0), (0, -weights.shape[-1] % BLOCK))).reshape(len(weights), -1, BLOCK)
    totals = blocks.sum(axis=-1)
    keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(keys), token_index)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    block = _invert_cumulative(totals, uniform[:, 0])
    within = _invert_cumulative(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], uniform[:, 1])
    # This is argmax, which takes far longer since it carries the indices along.
    likeliest = jnp.where(logits == highest, jnp.arange(logits.shape[-1]), logits.shape[-1]).min(axis=-1)
    tokens = jnp.where(temperature > 0, block * BLOCK + within, likeliest).astype(jnp.int32)
    logprobs = jnp.take_along_axis(logits - highest, tokens[:, None], axis=-1)[:, 0] - jnp.log(totals.sum(axis=-1))
    return tokens, logprobs


def _invert_cumulative(weights: Float[Array, "slots choices"], uniform: Float[Array, " slots"]) -> Int[Array, " slots"]:
    """The first choice whose cumulative weight exceeds `uniform` times the total; never one of weight 0."""
    cumulative = jnp.cumsum(weights, axis=-1)
    total = cumulative[:, -1]
    target = jnp.minimum(uniform * total, jnp.nextafter(total, 0.0))  # rounding must not make it the total
    return (cumulative <= target[:, None]).sum(axis=-1)
