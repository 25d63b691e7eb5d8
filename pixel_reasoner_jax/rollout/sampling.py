"""Choosing the next token.

A response never depends on what shares its batch: the key of every token comes from
(seed, query id, sample index, index of the token in the response) alone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How tokens are drawn.

    Attributes:
      temperature: of the first turn; 0 is greedy.
      later_temperature: of every later turn; None keeps `temperature` (the release uses 0.9).
      top_p: smallest set of tokens whose probability reaches this; 1 keeps all.
      top_k: number of likeliest tokens kept; 0 keeps all.
    """

    temperature: float = 1.0
    later_temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        for name in ("temperature", "later_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 (greedy) or a positive number, got {value}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all) or positive, got {self.top_k}")

    def turn_temperature(self, turn: int) -> float:
        return self.temperature if turn == 0 or self.later_temperature is None else self.later_temperature


def sample_keys(seed: int, query_ids: Sequence[str], samples: Sequence[int]) -> PRNGKeyArray:
    """Keys [slots], one for each (query id, sample index); fold the index of a token in to draw that token."""
    digests = (hashlib.blake2s(str(query_id).encode(), digest_size=4).digest() for query_id in query_ids)
    hashes = np.array([int.from_bytes(digest, "big") for digest in digests], np.uint32)
    return _fold(jax.random.key(seed), hashes, np.asarray(samples, np.uint32))


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def _fold(key: PRNGKeyArray, query_hash: Int[Array, ""], sample: Int[Array, ""]) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.fold_in(key, query_hash), sample)


def sampling_logits(
    logits: Float[Array, "slots vocab"],
    temperature: Float[Array, " slots"],
    forbidden: Bool[Array, " vocab"],
    top_p: float,
    top_k: int,
) -> Float[Array, "slots vocab"]:
    """The logits of the distribution tokens are drawn from: forbidden tokens out, tempered, then top-k, then top-p.

    A row of temperature 0 is left untempered; `draw` takes its likeliest token.
    """
    logits = jnp.where(forbidden, -jnp.inf, logits.astype(jnp.float32))
    logits = logits / jnp.where(temperature > 0, temperature, 1.0)[:, None]
    if top_k:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probability = jax.nn.softmax(ordered, axis=-1)
        # A token stays while the likelier ones together have not reached top_p, so the first always stays.
        kept = jnp.cumsum(probability, axis=-1) - probability < top_p
        least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def draw(
    logits: Float[Array, "slots vocab"],
    keys: PRNGKeyArray,
    token_index: Int[Array, " slots"],
    temperature: Float[Array, " slots"],
) -> tuple[Int[Array, " slots"], Float[Array, " slots"]]:
    """Draws a token for every slot from `sampling_logits` and returns it with its log-probability."""
    vocabulary = logits.shape[-1]
    step_keys = jax.vmap(jax.random.fold_in)(keys, token_index)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (vocabulary,), jnp.float32))(step_keys)
    tokens = jnp.argmax(logits + jnp.where(temperature > 0, 1.0, 0.0)[:, None] * noise, axis=-1)
    logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), tokens[:, None], axis=-1)[:, 0]
    return tokens.astype(jnp.int32), logprobs
