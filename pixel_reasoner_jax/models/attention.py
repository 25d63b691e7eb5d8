"""The one attention of the model: grouped queries, masked by segment and by order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Scores of one head kept at a time; more queries go through in chunks.
MAX_SCORES = 2**20


def attention(
    query: Float[Array, "batch queries heads size"],
    key: Float[Array, "batch kv_heads keys size"],
    value: Float[Array, "batch kv_heads keys size"],
    *,
    segments: tuple[Int[Array, "batch queries"], Int[Array, "batch keys"]] | None = None,
    last_key: Int[Array, "batch queries"] | None = None,
    max_scores: int = MAX_SCORES,
) -> Float[Array, "batch queries heads size"]:
    """Scaled dot-product attention with a float32 softmax.

    A query sees a key when both have the same segment id (if `segments` is given) and the key does not come after the
    last one it may see. Padding shares segment 0 and so sees padding only: no query is ever without a key.

    Args:
      query: heads is a multiple of kv_heads; head h reads key-value head h // (heads / kv_heads).
      key, value: heads before length, the order in which a cache is read without transposing it.
      segments: ids of the queries and of the keys.
      last_key: index of the last key each query may see; None: all. Causal attention is arange(queries).
      max_scores: queries x keys of one head held at a time. Beyond it the queries go in chunks, recomputed in the
        backward pass, so that memory grows with the keys and not with their square.

    Returns:
      The attended values, in the query's dtype.
    """
    batch, queries, heads, size = query.shape
    kv_heads, keys = key.shape[1:3]
    query = (query * size**-0.5).reshape(batch, queries, kv_heads, heads // kv_heads, size).transpose(0, 2, 3, 1, 4)
    query_segments, key_segments = (None, None) if segments is None else segments

    def attend(by_query):
        return _attend(*by_query, key, value, key_segments)

    chunk = max(max_scores // keys, 1)
    if queries <= chunk:
        out = attend((query, query_segments, last_key))
    else:
        count = -(-queries // chunk)
        by_query = (
            _split(query, 3, count),
            *(None if x is None else _split(x, 1, count) for x in (query_segments, last_key)),
        )
        out = jnp.moveaxis(jax.lax.map(jax.checkpoint(attend), by_query), 0, 3)
        out = out.reshape(*query.shape[:3], -1, size)[:, :, :, :queries]
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, queries, heads, size)


def _split(x: Array, axis: int, count: int) -> Array:
    """`count` equal parts along `axis`, padded at the end, as a new first axis."""
    part = -(-x.shape[axis] // count)
    x = jnp.pad(x, [(0, count * part - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])
    return jnp.moveaxis(x.reshape(*x.shape[:axis], count, part, *x.shape[axis + 1 :]), axis, 0)


def _attend(query, query_segments, last_key, key, value, key_segments):
    """query [batch, kv_heads, group, queries, size] over key and value [batch, kv_heads, keys, size]."""
    batch, kv_heads, group, queries, size = query.shape
    # One matrix product for all heads of a group: keys and values are never repeated.
    together = query.reshape(batch, kv_heads, group * queries, size)
    scores = jnp.einsum("bhqd,bhkd->bhqk", together, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, group, queries, -1)
    mask = None
    if query_segments is not None:
        mask = query_segments[:, :, None] == key_segments[:, None, :]
    if last_key is not None:
        before = jnp.arange(key.shape[2]) <= last_key[:, :, None]
        mask = before if mask is None else mask & before
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    # Softmax, its division put off until the keys are summed over.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1)
    weights = weights.reshape(batch, kv_heads, group * queries, -1).astype(value.dtype)
    out = jnp.einsum("bhqk,bhkd->bhqd", weights, value, preferred_element_type=jnp.float32)
    return (out.reshape(query.shape) / total[..., None]).astype(query.dtype)
