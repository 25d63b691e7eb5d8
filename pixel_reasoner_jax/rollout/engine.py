"""The device side of a rollout: small jitted functions over a KV cache with one slot per episode.

`encode` turns images into embeddings, `extend` appends tokens to slots (a prompt is an extend of an empty cache),
`select` copies slots (forking a group, or keeping the active ones), `decode` samples until every slot has ended its
turn. Nothing here knows of text, operations or limits; shapes depend on the declared buckets alone.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from pixel_reasoner_jax.rollout.sampling import draw, sampling_logits


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["cache", "hidden", "position", "keys", "token_index"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Slots:
    """What the device remembers of every episode.

    Attributes:
      cache: the model's KV cache, `length` [slots] tokens of every slot filled.
      hidden: [slots, width], final hidden state of each slot's last token: the next token is drawn from it.
      position: int32 [slots], M-RoPE position of the next text token.
      keys: the random key of every slot; see `sampling.sample_key`.
      token_index: int32 [slots], tokens sampled so far.
    """

    cache: dict[str, Array]
    hidden: Float[Array, "slots width"]
    position: Int[Array, " slots"]
    keys: PRNGKeyArray
    token_index: Int[Array, " slots"]


class Decoded(NamedTuple):
    """What `decode` sampled: slot i holds counts[i] real tokens, the last of them a stop token if stopped[i]."""

    tokens: Int[Array, "slots steps"]
    logprobs: Float[Array, "slots steps"]
    counts: Int[Array, " slots"]
    stopped: Bool[Array, " slots"]


class Engine:
    """Compiles the steps of a rollout for one model; parameters are passed in, so a new policy costs nothing."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        *,
        stop_tokens: tuple[int, ...],
        forbidden_tokens: np.ndarray,
        vocabulary: int,
        top_p: float = 1.0,
        top_k: int = 0,
    ):
        forbidden = np.zeros(vocabulary, bool)
        forbidden[np.asarray(forbidden_tokens, int)] = True
        stops = np.asarray(stop_tokens, np.int32)

        @jax.jit
        def encode(params: Any, vision: dict[str, Array]) -> Float[Array, "merged width"]:
            return nnx.merge(graphdef, params).encode_vision(vision)

        @functools.partial(jax.jit, static_argnames=("count", "length"))
        def empty(params: Any, keys: PRNGKeyArray, count: int, length: int) -> Slots:
            model = nnx.merge(graphdef, params)
            cache = model.init_cache(count, length)
            zeros = jnp.zeros(count, jnp.int32)
            hidden = jnp.zeros((count, model.config.hidden_size), model.language.dtype)
            return Slots(cache, hidden, zeros, keys, zeros)

        @functools.partial(jax.jit, donate_argnames=("slots",))
        def extend(
            params: Any,
            slots: Slots,
            tokens: Int[Array, "slots tokens"],
            positions: Int[Array, "3 slots tokens"],
            counts: Int[Array, " slots"],
            next_position: Int[Array, " slots"],
            vision_index: Int[Array, "slots tokens"] | None,
            vision_embeddings: Float[Array, "merged width"] | None,
        ) -> Slots:
            model = nnx.merge(graphdef, params)
            embeddings = model.embed(tokens, vision_index, vision_embeddings)
            hidden, cache = model.extend(embeddings, positions, counts, slots.cache)
            last = jnp.take_along_axis(hidden, jnp.maximum(counts - 1, 0)[:, None, None], axis=1)[:, 0]
            return dataclasses.replace(
                slots,
                cache=cache,
                hidden=jnp.where(counts[:, None] > 0, last, slots.hidden),
                position=jnp.where(counts > 0, next_position, slots.position),
            )

        @jax.jit
        def select(slots: Slots, rows: Int[Array, " selected"], keys: PRNGKeyArray) -> Slots:
            cache = {name: leaf[rows] if name == "length" else leaf[:, rows] for name, leaf in slots.cache.items()}
            return Slots(cache, slots.hidden[rows], slots.position[rows], keys, slots.token_index[rows])

        @functools.partial(jax.jit, static_argnames=("steps",), donate_argnames=("slots",))
        def decode(
            params: Any,
            slots: Slots,
            budget: Int[Array, " slots"],
            temperature: Float[Array, " slots"],
            steps: int,
        ) -> tuple[Slots, Decoded]:
            model = nnx.merge(graphdef, params)
            count = budget.shape[0]

            def unfinished(carry):
                step, active, _, _ = carry
                return (step < steps) & active.any()

            def one_token(carry):
                step, active, slots, out = carry
                logits = sampling_logits(model.logits(slots.hidden), temperature, forbidden, top_p, top_k)
                token, logprob = draw(logits, slots.keys, slots.token_index, temperature)
                stop = active & (token[:, None] == stops).any(axis=1)
                taken = active.astype(jnp.int32)
                out = Decoded(
                    out.tokens.at[:, step].set(jnp.where(active, token, 0)),
                    out.logprobs.at[:, step].set(jnp.where(active, logprob, 0.0)),
                    out.counts + taken,
                    out.stopped | stop,
                )
                # The stop token enters the cache too: what follows it in the conversation attends to it.
                embeddings = model.embed(token[:, None], None, None)
                positions = jnp.broadcast_to(slots.position[None, :, None], (3, count, 1))
                hidden, cache = model.extend(embeddings, positions, taken, slots.cache)
                slots = Slots(
                    cache,
                    jnp.where(active[:, None], hidden[:, 0], slots.hidden),
                    slots.position + taken,
                    slots.keys,
                    slots.token_index + taken,
                )
                return step + 1, active & ~stop & (out.counts < budget), slots, out

            out = Decoded(
                jnp.zeros((count, steps), jnp.int32),
                jnp.zeros((count, steps), jnp.float32),
                jnp.zeros(count, jnp.int32),
                jnp.zeros(count, bool),
            )
            _, _, slots, out = jax.lax.while_loop(unfinished, one_token, (0, budget > 0, slots, out))
            return slots, out

        self.encode, self.empty, self.extend, self.select, self.decode = encode, empty, extend, select, decode
