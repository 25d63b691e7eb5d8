"""The device side of a rollout: small jitted functions over a KV cache with one slot per response.

`encode` puts images' embeddings into a table, `extend` appends tokens to some slots (a prompt is an extend of an empty
slot), `fork` begins another response to a prompt that a slot holds, `decode` samples for all slots until one of them
has ended its turn. Nothing here knows of text, operations or limits. The host knows what every slot holds and says so
with every call, so taking back a few tokens is saying a smaller number. Shapes come from `shapes.Shapes` alone.

On a mesh, slots, table and the rows of every call are dealt out to the parts that its axes `data` and `fsdp` divide the
devices in. Numbers of slots and of rows of the table count within a part: a row is of its own part's slots and images,
and no part ever asks another.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt32

from pixel_reasoner_jax.models.attention import BLOCK
from pixel_reasoner_jax.parallel import constrain, gathered, locally, parts
from pixel_reasoner_jax.rollout.sampling import Drawing, draw, sample_keys, sampling_logits

PyTree = Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["cache", "hidden", "prompt_hidden", "position", "keys", "token_index", "seen"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Slots:
    """What the device remembers of every response.

    Attributes:
      cache: the model's KV cache, `length` [slots] tokens of every slot filled. Slots are those of all parts.
      hidden: [slots, width], final hidden state of each slot's last token: the next token is drawn from it.
      prompt_hidden: [slots, width], that of the last token of the slot's prompt; a fork begins with it.
      position: int32 [slots], M-RoPE position of the next text token.
      keys: uint32 [slots, 2], the data of every slot's random key; see `sampling.sample_keys`.
      token_index: int32 [slots], tokens sampled so far.
      seen: bool [slots, vocab], tokens of the conversation, for a repetition penalty; None where there is none.
    """

    cache: dict[str, Array]
    hidden: Float[Array, "slots width"]
    prompt_hidden: Float[Array, "slots width"]
    position: Int[Array, " slots"]
    keys: UInt32[Array, "slots 2"]
    token_index: Int[Array, " slots"]
    seen: Bool[Array, "slots vocab"] | None


class Addition(NamedTuple):
    """Tokens to append, a row for each slot concerned (numpy; the rest of the rows is padding).

    Attributes:
      slots: int32 [rows], whose row it is; a number past the last slot for padding.
      starts: int32 [rows], tokens of the slot that stay.
      counts: int32 [rows], tokens to append.
      tokens: int32 [rows, width].
      positions: int32 [rows, 3, width].
      vision_index: int32 [rows, width], the row of the embedding table that stands in for the token; -1 for text.
      position: int32 [rows], that of the token after.
      token_index: int32 [rows], tokens sampled so far.
      ends_prompt: bool [rows], the prompt is complete with this.
      seen: bool [rows, vocab], every token of the slot so far, or None; see `Slots`.
    """

    slots: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray
    vision_index: np.ndarray
    position: np.ndarray
    token_index: np.ndarray
    ends_prompt: np.ndarray
    seen: np.ndarray | None = None

    @classmethod
    def blank(cls, rows: int, width: int, slots: int) -> Addition:
        """Nothing but padding, for a part of so many slots; to be filled in."""
        zeros = [np.zeros(rows, np.int32) for _ in range(4)]
        return cls(
            np.full(rows, slots, np.int32),
            zeros[0],
            zeros[1],
            np.zeros((rows, width), np.int32),
            np.zeros((rows, 3, width), np.int32),
            np.full((rows, width), -1, np.int32),
            zeros[2],
            zeros[3],
            np.zeros(rows, bool),
        )


class Forks(NamedTuple):
    """Responses to begin (numpy): slot `source` holds the prompt of slot `target`'s; padding has targets past the end.

    Attributes:
      source, target: int32 [forks]; they may be the same.
      lengths, position: int32 [forks], the prompt's tokens, and the position after them.
      seeds: uint32 [forks, 3], of the new responses' random keys; see `sampling.sample_seeds`.
      seen: bool [forks, vocab], the tokens of the prompt, or None; see `Slots`.
    """

    source: np.ndarray
    target: np.ndarray
    lengths: np.ndarray
    position: np.ndarray
    seeds: np.ndarray
    seen: np.ndarray | None

    @classmethod
    def blank(cls, count: int, slots: int, vocab: int | None) -> Forks:
        """Nothing but padding, for a part of so many slots; `vocab`: with tokens seen."""
        zeros = [np.zeros(count, np.int32) for _ in range(3)]
        seen = None if vocab is None else np.zeros((count, vocab), bool)
        return cls(zeros[0], np.full(count, slots, np.int32), *zeros[1:], np.zeros((count, 3), np.uint32), seen)


class Decoded(NamedTuple):
    """What `decode` sampled: slot i has counts[i] tokens, the last of them a stop token if stopped[i].

    `logprobs` are of the distribution sampled from, `policy_logprobs` of the model's own.
    """

    tokens: Int[Array, "slots steps"]
    logprobs: Float[Array, "slots steps"]
    policy_logprobs: Float[Array, "slots steps"]
    counts: Int[Array, " slots"]
    stopped: Bool[Array, " slots"]


class Engine:
    """Compiles the steps of a rollout for one model; parameters are passed in, so a new policy costs nothing.

    Args:
      graphdef: of the model.
      stop_tokens: those that end a turn.
      mesh: that of the model.
      gather_parameters: have `decode` gather them over fsdp once (`parallel.gathered`); else in every step, layer by
        layer.
    """

    def __init__(
        self, graphdef: Any, stop_tokens: Sequence[int], mesh: Mesh | None = None, gather_parameters: bool = True
    ):
        stops = np.asarray(stop_tokens, np.int32)

        def dealt(tree: PyTree) -> PyTree:
            """Holds arrays with a leading axis of slots or rows to their places."""
            return jax.tree.map(lambda x: constrain(x, ("batch", *(None,) * (x.ndim - 1)), mesh), tree)

        def put(old: PyTree, rows: Int[Array, " rows"], new: PyTree) -> PyTree:
            """Replaces rows of arrays, those of each part by its own; numbers past the end are padding."""

            def own(old, rows, new):
                return jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), old, new)

            return locally(own, mesh, [("batch",)] * 3, like=0)(old, rows, new)

        @functools.partial(jax.jit, static_argnames=("count", "length", "dtype", "penalized"))
        def empty(params: PyTree, count: int, length: int, dtype: str | None, penalized: bool) -> Slots:
            """`count` empty slots of `length` tokens in all; `penalized` has them remember the tokens seen."""
            model = nnx.merge(graphdef, params)
            zeros = jnp.zeros(count, jnp.int32)
            hidden = jnp.zeros((count, model.config.hidden_size), model.language.dtype)
            seen = jnp.zeros((count, model.config.vocab_size), bool) if penalized else None
            keys = jnp.zeros((count, 2), jnp.uint32)
            cache = model.init_cache(count, length, dtype)
            return Slots(cache, *dealt((hidden, jnp.copy(hidden), zeros, keys, jnp.copy(zeros), seen)))

        @functools.partial(jax.jit, static_argnames=("size",))
        def empty_table(params: PyTree, size: int) -> Float[Array, "size width"]:
            """A table of `size` embeddings in all."""
            model = nnx.merge(graphdef, params)
            return dealt(jnp.zeros((size, model.config.hidden_size), model.language.dtype))

        @functools.partial(jax.jit, donate_argnames=("table",))
        def encode(
            params: PyTree,
            table: Float[Array, "size width"],
            vision: dict[str, Array],
            places: Int[Array, " merged"],
        ) -> Float[Array, "size width"]:
            """Writes the embedding of every merged patch to its place in the table; places past its end are padding."""
            embeddings = nnx.merge(graphdef, params).encode_vision(vision)
            return put(table, places, embeddings.astype(table.dtype))

        @functools.partial(jax.jit, donate_argnames=("slots",))
        def extend(params: PyTree, slots: Slots, table: Float[Array, "size width"], added: Addition) -> Slots:
            """Appends tokens to slots; see `Addition`."""
            model = nnx.merge(graphdef, params)
            rows = added.slots
            embeddings = model.embed(added.tokens, added.vision_index, table.reshape(parts(mesh), -1, table.shape[-1]))
            cache = slots.cache | {"length": put(slots.cache["length"], rows, added.starts)}
            hidden, cache = model.extend(embeddings, jnp.moveaxis(added.positions, 1, 0), added.counts, cache, rows)
            last = jnp.take_along_axis(hidden, jnp.maximum(added.counts - 1, 0)[:, None, None], axis=1)[:, 0]
            kept = (slots.hidden, slots.position, slots.token_index, slots.seen)
            hidden, position, token_index, seen = put(kept, rows, (last, added.position, added.token_index, added.seen))
            prompts = jnp.where(added.ends_prompt, rows, len(slots.hidden))
            prompt_hidden = put(slots.prompt_hidden, prompts, last)
            return Slots(cache, hidden, prompt_hidden, position, slots.keys, token_index, seen)

        @functools.partial(jax.jit, donate_argnames=("slots",))
        def fork(slots: Slots, forks: Forks) -> Slots:
            """Begins responses in slots whose prompts other slots hold; see `Forks`."""

            def copy_prompts(cache, source, target, lengths):
                layers, slots, kv_heads, length, size = cache[0].shape
                block = min(BLOCK, length)
                sizes = (layers, 1, kv_heads, block, size)

                def copy_block(fork, number, cache):
                    here, there = (0, source[fork], 0, number * block, 0), (0, target[fork], 0, number * block, 0)
                    return tuple(
                        jax.lax.dynamic_update_slice(x, jax.lax.dynamic_slice(x, here, sizes), there) for x in cache
                    )

                def copy(fork, cache):
                    # In place, and as far as the prompt goes: a gather would hold a second cache for a moment.
                    blocks = jnp.where(target[fork] < slots, -(-lengths[fork] // block), 0)
                    return jax.lax.fori_loop(0, blocks, functools.partial(copy_block, fork), cache)

                return jax.lax.fori_loop(0, len(target), copy, cache)

            rows = ("batch",)
            copy_prompts = locally(copy_prompts, mesh, [(None, "batch", "kv_heads"), rows, rows, rows], like=0)
            cache = slots.cache["k"], slots.cache["v"]
            keys, values = copy_prompts(cache, forks.source, forks.target, forks.lengths)
            hidden = locally(lambda x, source: x[source], mesh, [rows, rows], like=1)(slots.prompt_hidden, forks.source)
            old = (slots.cache["length"], slots.position, slots.keys, slots.token_index, slots.seen)
            zeros = jnp.zeros_like(forks.lengths)
            lengths, position, random_keys, token_index, seen = put(
                old, forks.target, (forks.lengths, forks.position, sample_keys(forks.seeds), zeros, forks.seen)
            )
            cache = {"k": keys, "v": values, "length": lengths}
            own_hidden, prompt_hidden = put((slots.hidden, slots.prompt_hidden), forks.target, (hidden, hidden))
            return Slots(cache, own_hidden, prompt_hidden, position, random_keys, token_index, seen)

        @functools.partial(jax.jit, static_argnames=("steps", "filtered"), donate_argnames=("slots",))
        def decode(
            params: PyTree,
            slots: Slots,
            drawing: Drawing,
            forbidden: Bool[Array, " vocab"],
            most: Int[Array, ""],
            patience: Int[Array, ""],
            steps: int,
            filtered: bool,
        ) -> tuple[Slots, Decoded]:
            """Samples for every slot with a budget, at most `most` <= `steps` tokens, until `patience` have ended.

            `forbidden` tokens are never drawn; `filtered`: some slot uses top-p or top-k.
            """
            model = nnx.merge(graphdef, params)
            if gather_parameters:  # a step is short: it would wait for them to arrive
                model = nnx.merge(graphdef, gathered(params, mesh, model.language.dtype))
            count = drawing.budget.shape[0]
            began = drawing.budget > 0

            def unfinished(carry):
                step, active, _, _ = carry
                return (step < most) & active.any() & ((began & ~active).sum() < patience)

            def one_token(carry):
                step, active, slots, out = carry
                raw = jnp.where(forbidden, -jnp.inf, model.logits(slots.hidden))
                logits = sampling_logits(raw, drawing, slots.seen, filtered)
                token, logprob = draw(logits, slots.keys, slots.token_index, drawing.temperature)
                own = jnp.take_along_axis(raw, token[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(raw, axis=-1)
                stop = active & (token[:, None] == stops).any(axis=1)
                taken = active.astype(jnp.int32)
                out = Decoded(
                    out.tokens.at[:, step].set(jnp.where(active, token, 0)),
                    out.logprobs.at[:, step].set(jnp.where(active, logprob, 0.0)),
                    out.policy_logprobs.at[:, step].set(jnp.where(active, own, 0.0)),
                    out.counts + taken,
                    out.stopped | stop,
                )
                # The stop token enters the cache too: what follows it in the conversation attends to it.
                embeddings = model.embed(token[:, None], None, None)
                positions = jnp.broadcast_to(slots.position[None, :, None], (3, count, 1))
                hidden, cache = model.extend(embeddings, positions, taken, slots.cache)
                seen = slots.seen
                if seen is not None:
                    seen |= (jnp.arange(seen.shape[1]) == token[:, None]) & active[:, None]
                slots = Slots(
                    cache,
                    jnp.where(active[:, None], hidden[:, 0], slots.hidden),
                    slots.prompt_hidden,
                    slots.position + taken,
                    slots.keys,
                    slots.token_index + taken,
                    seen,
                )
                return step + 1, active & ~stop & (out.counts < drawing.budget), slots, out

            blank = jnp.zeros((count, steps), jnp.float32)
            out = dealt(
                Decoded(
                    jnp.zeros((count, steps), jnp.int32),
                    blank,
                    jnp.copy(blank),
                    jnp.zeros(count, jnp.int32),
                    jnp.zeros(count, bool),
                )
            )
            _, _, slots, out = jax.lax.while_loop(unfinished, one_token, (0, began, slots, out))
            return slots, dealt(out)

        self.empty, self.empty_table, self.encode = empty, empty_table, encode
        self.extend, self.fork, self.decode = extend, fork, decode
