"""The device side of a rollout: small jitted functions over slots, one for each response, and the pages of a KV cache.

`encode` writes images' embeddings into a table, `extend` appends tokens to some slots (a prompt is an extend of an
empty slot), `fork` begins another response to a prompt that a slot holds, `decode` samples for all slots until some
of them have ended their turn, `save` and `load` bring pages to the host and back. Each is a function of a model's
graph, its mesh, and arrays; `Engine` compiles them for one model. Nothing here knows of text, operations or limits. The
host passes with every call which pages the slots' tokens lie in, and with every `extend` how many tokens a slot holds;
it takes tokens back by passing a smaller number. All shapes are those that `shapes.Shapes` declares.

On a mesh, slots, pages, table and the rows of every call are sharded over its axes `data` and `fsdp`, which divide the
devices into parts. Slots, pages and rows of the table are numbered within each part: a row of a call refers to slots,
pages and images of the part that holds the row, so that parts need not communicate about them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from pixel_reasoner_jax.models.cache import Pages, Reads
from pixel_reasoner_jax.parallel import constrain, map_parts, parts
from pixel_reasoner_jax.rollout.engine_arrays import Decoded, ExtendBatch, ForkBatch, Slots
from pixel_reasoner_jax.rollout.sampling import SlotSampling, draw, sample_keys, sampling_logits

PyTree = Any
Carry = tuple[Int[Array, ""], Bool[Array, " slots"], Slots, Decoded]
"""State of the decoding loop: steps taken, which slots are still active, the slots, and the tokens sampled."""


class Engine:
    """The steps of a rollout, compiled for one model; parameters are arguments, so a new policy compiles nothing.

    Args:
      graphdef: the model's graph definition.
      stop_tokens: ids of the tokens that end a turn.
      mesh: the model's mesh. What its fsdp divides of the parameters, every step gathers, layer by layer.
    """

    def __init__(self, graphdef: Any, stop_tokens: Sequence[int], mesh: Mesh | None = None):
        stops = np.asarray(stop_tokens, np.int32)

        def compiled(step: Callable, *fixed: Any, **options: Any) -> Callable:
            return jax.jit(functools.partial(step, *fixed), **options)

        # Only if the parameters are kept as arguments is what comes out committed to their devices, as is what other
        # steps give back: for an uncommitted array, the step that takes it would be compiled again.
        static = ("count", "pages", "page", "items", "dtype", "penalized")
        self.empty = compiled(empty, graphdef, mesh, static_argnames=static, keep_unused=True)
        self.empty_table = compiled(empty_table, graphdef, mesh, static_argnames=("size",), keep_unused=True)
        self.encode = compiled(encode, graphdef, mesh, donate_argnames=("table",))
        self.extend = compiled(extend, graphdef, mesh, donate_argnames=("slots",))
        self.fork = compiled(fork, mesh, donate_argnames=("slots",))
        self.save = compiled(save, mesh)
        self.load = compiled(load, mesh, donate_argnames=("slots",))
        self.decode = compiled(
            decode,
            graphdef,
            mesh,
            stops,
            static_argnames=("steps", "filtered"),
            donate_argnames=("slots",),
        )


def empty(
    graphdef: Any,
    mesh: Mesh | None,
    params: PyTree,
    text: Int[Array, " tokens"] | None,
    count: int,
    pages: int,
    page: int,
    items: int,
    dtype: str | None,
    penalized: bool,
) -> Slots:
    """Makes `count` empty slots and `pages` pages of `page` tokens, those of all parts; see `Qwen2_5_VL.init_cache`.

    Args:
      text: tokens whose keys and values say how a cache of int8 is scaled; None for other types.
      penalized: gives the slots `Slots.seen`.
    """
    model = nnx.merge(graphdef, params)
    zeros = jnp.zeros(count, jnp.int32)
    hidden = jnp.zeros((count, model.config.hidden_size), model.language.dtype)
    seen = jnp.zeros((count, model.config.vocab_size), bool) if penalized else None
    keys = jnp.zeros((count, 2), jnp.uint32)
    cache = model.init_cache(pages, page, items, dtype, None if text is None else model.ranges(text))
    state = zeros, hidden, jnp.copy(hidden), jnp.copy(zeros), keys, jnp.copy(zeros), seen
    return Slots(cache, *_constrain_rows(state, mesh))


def empty_table(graphdef: Any, mesh: Mesh | None, params: PyTree, size: int) -> Float[Array, "size width"]:
    """Makes a table of `size` rows, those of all parts."""
    model = nnx.merge(graphdef, params)
    return _constrain_rows(jnp.zeros((size, model.config.hidden_size), model.language.dtype), mesh)


def encode(
    graphdef: Any,
    mesh: Mesh | None,
    params: PyTree,
    table: Float[Array, "size width"],
    vision: dict[str, Array],
    rows: Int[Array, " merged"],
) -> Float[Array, "size width"]:
    """Writes the embedding of every merged token to its row of the table; a row past the table's end is padding."""
    embeddings = nnx.merge(graphdef, params).encode_vision(vision)
    return _set_rows(table, rows, embeddings.astype(table.dtype), mesh)


def extend(
    graphdef: Any,
    mesh: Mesh | None,
    params: PyTree,
    slots: Slots,
    table: Float[Array, "size width"],
    batch: ExtendBatch,
) -> Slots:
    """Appends tokens to slots; see `ExtendBatch`."""
    model = nnx.merge(graphdef, params)
    rows = batch.slots
    embeddings = model.embed(batch.tokens, batch.vision_index, table.reshape(parts(mesh), -1, table.shape[-1]))
    pages = Pages(batch.starts, batch.table)
    hidden, cache = model.extend(embeddings, jnp.moveaxis(batch.positions, 1, 0), batch.counts, slots.cache, pages)
    last = jnp.take_along_axis(hidden, jnp.maximum(batch.counts - 1, 0)[:, None, None], axis=1)[:, 0]
    old = (slots.length, slots.hidden, slots.position, slots.token_index, slots.seen)
    new = (batch.starts + batch.counts, last, batch.position, batch.token_index, batch.seen)
    length, hidden, position, token_index, seen = _set_rows(old, rows, new, mesh)
    prompts = jnp.where(batch.ends_prompt, rows, len(slots.hidden))
    prompt_hidden = _set_rows(slots.prompt_hidden, prompts, last, mesh)
    return Slots(cache, length, hidden, prompt_hidden, position, slots.keys, token_index, seen)


def fork(mesh: Mesh | None, slots: Slots, batch: ForkBatch) -> Slots:
    """Begins responses in slots whose prompts other slots hold; see `ForkBatch`."""
    rows = ("batch",)
    copy = map_parts(lambda cache, *pages: cache.copy(*pages), mesh, [slots.cache.AXES, rows, rows], like=0)
    cache = copy(slots.cache, batch.page, batch.copy)
    take = map_parts(lambda x, source: x[source], mesh, [rows, rows], like=1)
    hidden = take(slots.prompt_hidden, batch.source)
    old = (slots.length, slots.hidden, slots.prompt_hidden, slots.position, slots.keys, slots.token_index, slots.seen)
    zeros = jnp.zeros_like(batch.lengths)
    new = (batch.lengths, hidden, hidden, batch.position, sample_keys(batch.seeds), zeros, batch.seen)
    return Slots(cache, *_set_rows(old, batch.target, new, mesh))


def save(mesh: Mesh | None, slots: Slots, numbers: Int[Array, " numbers"]) -> list[Array]:
    """Pages of the cache as the host keeps them, each [numbers, ...]; see `Cache.save`."""
    saved = ("batch", *slots.cache.AXES[:1], *slots.cache.AXES[2:])
    names = [(*saved, *(None,) * (len(shape.shape) - len(saved))) for shape in slots.cache.saved_shapes(len(numbers))]
    shapes = slots.cache.saved_shapes(len(numbers))
    into = [constrain(jnp.zeros(x.shape, x.dtype), axes, mesh) for x, axes in zip(shapes, names, strict=True)]
    take = map_parts(
        lambda cache, numbers, into: cache.save(numbers, into), mesh, [slots.cache.AXES, ("batch",), saved], like=2
    )
    return _constrain_rows(take(slots.cache, numbers, into), mesh)


def load(mesh: Mesh | None, slots: Slots, numbers: Int[Array, " numbers"], saved: list[Array]) -> Slots:
    """Puts back pages that `save` has returned."""
    axes = ("batch", *slots.cache.AXES[:1], *slots.cache.AXES[2:])
    put = map_parts(
        lambda cache, numbers, saved: cache.load(numbers, saved), mesh, [slots.cache.AXES, ("batch",), axes], like=0
    )
    return dataclasses.replace(slots, cache=put(slots.cache, numbers, saved))


def decode(
    graphdef: Any,
    mesh: Mesh | None,
    stops: np.ndarray,
    params: PyTree,
    slots: Slots,
    table: Int[Array, "slots most"],
    reads: Reads,
    sampling: SlotSampling,
    forbidden: Bool[Array, " vocab"],
    most: Int[Array, ""],
    patience: Int[Array, ""],
    steps: int,
    filtered: bool,
) -> tuple[Slots, Decoded]:
    """Samples for every slot with a budget until `patience` of these slots have ended.

    Args:
      graphdef, mesh, stops: see `Engine`.
      params: the model's parameters.
      slots: the state of all responses; donated.
      table: the pages of each slot's tokens, in order, those of `most` more tokens included.
      reads: the same pages of the slots with a budget, listed.
      sampling: how each slot is sampled; slots with a budget of 0 are left out.
      forbidden: tokens that are never drawn.
      most: tokens for each slot at most; not more than `steps`.
      patience: the number of ended slots at which the loop ends. A slot ends with a stop token or its budget.
      steps: width of the arrays that are returned.
      filtered: whether some slot uses top-p or top-k.
    """
    model = nnx.merge(graphdef, params)
    began = sampling.budget > 0

    def unfinished(carry: Carry) -> Bool[Array, ""]:
        step, active, _, _ = carry
        return (step < most) & active.any() & ((began & ~active).sum() < patience)

    def one_token(carry: Carry) -> Carry:
        step, active, slots, out = carry
        token, logprob, policy_logprob = _draw_next(model, slots, sampling, forbidden, filtered)
        stop = active & (token[:, None] == stops).any(axis=1)
        taken = active.astype(jnp.int32)
        out = Decoded(
            out.tokens.at[:, step].set(jnp.where(active, token, 0)),
            out.logprobs.at[:, step].set(jnp.where(active, logprob, 0.0)),
            out.policy_logprobs.at[:, step].set(jnp.where(active, policy_logprob, 0.0)),
            out.counts + taken,
            out.stopped | stop,
        )
        # The stop token enters the cache too: what follows it in the conversation attends to it.
        slots = _append_sampled(model, slots, table, reads, token, active, taken)
        return step + 1, active & ~stop & (out.counts < sampling.budget), slots, out

    count = sampling.budget.shape[0]
    blank = jnp.zeros((count, steps), jnp.float32)
    out = Decoded(
        jnp.zeros((count, steps), jnp.int32),
        blank,
        jnp.copy(blank),
        jnp.zeros(count, jnp.int32),
        jnp.zeros(count, bool),
    )
    first = (0, began, slots, _constrain_rows(out, mesh))
    _, _, slots, out = jax.lax.while_loop(unfinished, one_token, first)
    # The compiler would divide `seen` by the vocabulary, as the logits are, and the next call be another program.
    slots = dataclasses.replace(slots, seen=_constrain_rows(slots.seen, mesh))
    return slots, _constrain_rows(out, mesh)


def _draw_next(
    model: Any, slots: Slots, sampling: SlotSampling, forbidden: Bool[Array, " vocab"], filtered: bool
) -> tuple[Int[Array, " slots"], Float[Array, " slots"], Float[Array, " slots"]]:
    """Draws a token for every slot.

    Returns:
      The tokens, their log-probabilities under the distribution sampled from, and under the model's own distribution.
    """
    raw = jnp.where(forbidden, -jnp.inf, model.logits(slots.hidden))
    logits = sampling_logits(raw, sampling, slots.seen, filtered)
    token, logprob = draw(logits, slots.keys, slots.token_index, sampling.temperature)
    policy_logprob = jnp.take_along_axis(raw, token[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(raw, axis=-1)
    return token, logprob, policy_logprob


def _append_sampled(
    model: Any,
    slots: Slots,
    table: Int[Array, "slots most"],
    reads: Reads,
    token: Int[Array, " slots"],
    active: Bool[Array, " slots"],
    taken: Int[Array, " slots"],
) -> Slots:
    """Appends to every active slot the token drawn for it; `taken` is `active` as integers."""
    embeddings = model.embed(token[:, None], None, None)
    positions = jnp.broadcast_to(slots.position[None, :, None], (3, len(token), 1))
    pages = Pages(slots.length, table)
    hidden, cache = model.extend(embeddings, positions, taken, slots.cache, pages, reads)
    seen = slots.seen
    if seen is not None:
        seen |= (jnp.arange(seen.shape[1]) == token[:, None]) & active[:, None]
    return Slots(
        cache,
        slots.length + taken,
        jnp.where(active[:, None], hidden[:, 0], slots.hidden),
        slots.prompt_hidden,
        slots.position + taken,
        slots.keys,
        slots.token_index + taken,
        seen,
    )


def _constrain_rows(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Constrains arrays whose first axis is slots or rows to the sharding of a batch."""
    return jax.tree.map(lambda x: constrain(x, ("batch", *(None,) * (x.ndim - 1)), mesh), tree)


def _set_rows(old: PyTree, rows: Int[Array, " rows"], new: PyTree, mesh: Mesh | None) -> PyTree:
    """Replaces rows of arrays. Rows are numbered within each part of the mesh; numbers past its end are padding."""

    def set_in_part(old, rows, new):
        return jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), old, new)

    return map_parts(set_in_part, mesh, [("batch",)] * 3, like=0)(old, rows, new)
