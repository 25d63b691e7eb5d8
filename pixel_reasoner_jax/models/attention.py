"""The attention of the model: grouped queries, over whole sequences or over a cache."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from pixel_reasoner_jax.models import kernels

# Queries whose scores are held at a time: on a CPU, more are no faster; on an H100, 512 took 0.64 of the time of 128.
QUERIES = {"gpu": 512}
DEFAULT_QUERIES = 128

# Parts that the queries are cut into under causality, of which each reads no key past its own end. Four compute 5/8 of
# the scores; no number of them gets below a half, and each is one more loop to compile.
PARTS = 4


def attention(
    query: Float[Array, "batch tokens heads size"],
    key: Float[Array, "batch kv_heads tokens size"],
    value: Float[Array, "batch kv_heads tokens size"],
    segments: Int[Array, "batch tokens"],
    *,
    causal: bool,
    mesh: Mesh | None = None,
) -> Float[Array, "batch tokens heads size"]:
    """Scaled dot-product self-attention with a float32 softmax, on TPU by its kernel where that fits.

    A token sees those of its own segment, if `causal` only up to itself. Padding shares segment 0 and so sees padding
    only: no token is ever without a key.

    Args:
      query: heads is a multiple of kv_heads; head h reads key-value head h // (heads / kv_heads).
      key, value: heads before length, the order in which a cache is read without transposing it.
      segments: ids, not negative.
      mesh: what the arrays lie on. Its devices decide on the kernel, whatever machine compiles; without a mesh it is
        JAX's default platform.

    Returns:
      The attended values, in the query's dtype.
    """
    platform = platform_of(mesh)
    if not kernels.fits(platform, *query.shape[1::2]):
        queries = QUERIES.get(platform, DEFAULT_QUERIES)
        return dense_attention(query, key, value, segments, causal=causal, queries=queries)
    query = query * query.shape[-1] ** -0.5
    return kernels.fused_attention(query, key, value, segments, causal=causal, mesh=mesh)


def platform_of(mesh: Mesh | None) -> str:
    """What a mesh consists of, "cpu", "gpu" or "tpu"; without one, what JAX takes by itself."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def dense_attention(
    query: Float[Array, "batch tokens heads size"],
    key: Float[Array, "batch kv_heads tokens size"],
    value: Float[Array, "batch kv_heads tokens size"],
    segments: Int[Array, "batch tokens"],
    *,
    causal: bool,
    queries: int = DEFAULT_QUERIES,
) -> Float[Array, "batch tokens heads size"]:
    """The attention of `attention` in XLA's operations, for every platform and any shape.

    Args:
      queries: whose scores are held at a time, at most: memory grows with the keys and not with their square. The
        gradients of keys and values are summed over such chunks in their own type.
    """
    batch, tokens, heads, size = query.shape
    kv_heads = key.shape[1]
    query = (query * size**-0.5).reshape(batch, tokens, kv_heads, heads // kv_heads, size).transpose(0, 2, 3, 1, 4)
    order = jnp.broadcast_to(jnp.arange(tokens), segments.shape) if causal else None
    parts = min(PARTS, max(tokens // queries, 1)) if causal else 1
    out = []
    for begin, end in itertools.pairwise(tokens * i // parts for i in range(parts + 1)):
        part = query[:, :, :, begin:end], segments[:, begin:end], order[:, begin:end] if causal else None
        out.append(_in_chunks(queries, end, *part, key, value, segments))
    return jnp.concatenate(out, axis=3).transpose(0, 3, 1, 2, 4).reshape(batch, tokens, heads, size)


def _in_chunks(queries, end, query, query_segments, order, key, value, segments):
    """`_attend` over chunks of at most `queries` queries, one after the other."""

    def attend(by_query):
        return _attend(end, *by_query, key, value, segments)

    tokens = query.shape[3]
    count = -(-tokens // queries)
    if count == 1:
        return attend((query, query_segments, order))
    by_query = (_split(query, 3, count), *(None if x is None else _split(x, 1, count) for x in (query_segments, order)))
    out = jnp.moveaxis(jax.lax.map(attend, by_query), 0, 3)
    return out.reshape(*query.shape[:3], -1, query.shape[-1])[:, :, :, :tokens]


def _split(x: Array, axis: int, count: int) -> Array:
    """Splits `axis` into `count` equal parts, padded at the end, which become a new first axis."""
    part = -(-x.shape[axis] // count)
    x = jnp.pad(x, [(0, count * part - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])
    return jnp.moveaxis(x.reshape(*x.shape[:axis], count, part, *x.shape[axis + 1 :]), axis, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(end, query, query_segments, order, key, value, segments):
    """query [batch, kv_heads, group, queries, size] over key and value [batch, kv_heads, keys, size], up to key `end`.

    The backward pass keeps no scores and computes them again, as in FlashAttention (Dao et al., 2022). It keeps keys
    and values whole, which all calls have in common.
    """
    return _attend_forward(end, query, query_segments, order, key, value, segments)[0]


def _attend_forward(end, query, query_segments, order, key, value, segments):
    saved = query, query_segments, order, key, value, segments
    key, value, segments = key[:, :, :end], value[:, :, :end], segments[:, :end]
    scores = _scores(query, query_segments, order, key, segments)
    # Softmax, its division put off until the keys are summed over.
    highest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    out = _sum_by_head("bhqk,bhkd->bhqd", weights.astype(value.dtype), value) / total
    out = checkpoint_name(out.astype(query.dtype), kernels.SAVED)
    normalizer = checkpoint_name(highest + jnp.log(total), kernels.SAVED)
    return out, (*saved, normalizer)


def _attend_backward(end, saved, gradient):
    query, query_segments, order, key, value, segments, normalizer = saved
    unseen = [(0, 0), (0, 0), (0, key.shape[2] - end), (0, 0)]
    key, value, segments = key[:, :, :end], value[:, :, :end], segments[:, :end]
    weights = jnp.exp(_scores(query, query_segments, order, key, segments) - normalizer)
    by_weight = _sum_by_head("bhqd,bhkd->bhqk", gradient.astype(value.dtype), value)
    expected = (weights * by_weight).sum(axis=-1, keepdims=True)
    by_score = (weights * (by_weight - expected)).astype(query.dtype)
    by_query = _sum_by_head("bhqk,bhkd->bhqd", by_score, key).astype(query.dtype)
    by_key = _over_queries(by_score, query).astype(key.dtype)
    by_value = _over_queries(weights.astype(value.dtype), gradient.astype(value.dtype)).astype(value.dtype)
    return by_query, None, None, jnp.pad(by_key, unseen), jnp.pad(by_value, unseen), None


_attend.defvjp(_attend_forward, _attend_backward)


def _scores(query, query_segments, order, key, segments):
    """float32 [batch, kv_heads, group, queries, keys], about -1e38 where a query does not see a key."""
    scores = _sum_by_head("bhqd,bhkd->bhqk", query, key)
    mask = query_segments[:, :, None] == segments[:, None, :]
    if order is not None:
        mask &= jnp.arange(key.shape[2]) <= order[:, :, None]
    return jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)


def _sum_by_head(equation, x, y):
    """One matrix product for all heads of a group, so that keys and values are never repeated: x [batch, kv_heads,
    group, queries, ...], y [batch, kv_heads, keys, size]."""
    return jnp.einsum(equation, _flatten_heads(x), y, preferred_element_type=jnp.float32).reshape(*x.shape[:4], -1)


def _over_queries(x, y):
    """Sums over the heads of a group and their queries: float32 [batch, kv_heads, keys, size]."""
    return jnp.einsum("bhqk,bhqd->bhkd", _flatten_heads(x), _flatten_heads(y), preferred_element_type=jnp.float32)


def _flatten_heads(x):
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def cached_attention(
    query: Float[Array, "batch queries heads size"],
    read: Callable[[Int[Array, ""]], tuple[Array, Array]],
    last_key: Int[Array, "batch queries"],
    block: int,
) -> Float[Array, "batch queries heads size"]:
    """Attention over a cache, block by block as far as its longest sequence goes (online softmax; Milakov &
    Gimelshein, 2018).

    A block that holds nothing for a row leaves the row's sums as they are, to the bit: what a sequence computes does
    not depend on the length of its neighbours, and one program serves every length. Not differentiable.

    Args:
      query: heads is a multiple of the cache's kv_heads.
      read: the keys and the values of block number i, each [batch, kv_heads, block, size].
      last_key: index of the last key each query may see; the first key is seen by all.
      block: keys in a block.

    Returns:
      The attended values, in the query's dtype.
    """
    batch, queries, heads, size = query.shape
    kv_heads = jax.eval_shape(read, jnp.int32(0))[0].shape[1]
    grouped = (query * size**-0.5).reshape(batch, queries, kv_heads, -1, size).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, kv_heads, -1, size)
    last = jnp.tile(last_key, (1, heads // kv_heads))[:, None, :, None]

    def add(number, sums):
        highest, total, out = sums
        key, value = read(number)
        scores = jnp.einsum("bhqd,bhkd->bhqk", grouped, key.astype(query.dtype), preferred_element_type=jnp.float32)
        seen = number * block + jnp.arange(block) <= last
        scores = jnp.where(seen, scores, -jnp.inf)
        new = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
        weights = jnp.exp(scores - new)
        scale = jnp.exp(highest - new)
        added = jnp.einsum(
            "bhqk,bhkd->bhqd",
            weights.astype(query.dtype),
            value.astype(query.dtype),
            preferred_element_type=jnp.float32,
        )
        return new, total * scale + weights.sum(axis=-1, keepdims=True), out * scale + added

    rows = grouped.shape[:3]
    empty = (
        jnp.full((*rows, 1), jnp.finfo(jnp.float32).min),
        jnp.zeros((*rows, 1), jnp.float32),
        jnp.zeros((*rows, size), jnp.float32),
    )
    _, total, out = jax.lax.fori_loop(0, last_key.max() // block + 1, add, empty)
    out = (out / total).reshape(batch, kv_heads, -1, queries, size).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, queries, heads, size).astype(query.dtype)
