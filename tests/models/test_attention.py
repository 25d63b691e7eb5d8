"""Attention in XLA's operations against its definition in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_reasoner_jax.models.attention import attention, cached_attention, dense_attention
from pixel_reasoner_jax.plan.flops import count_flops

BATCH, TOKENS, HEADS, KV_HEADS, SIZE = 2, 37, 6, 2, 8
SEGMENTS = np.stack([np.repeat([1, 2, 0], [20, 10, 7]), np.repeat([1, 0], [30, 7])])


def arrays():
    random = np.random.default_rng(0)
    query = random.standard_normal((BATCH, TOKENS, HEADS, SIZE), np.float32)
    key, value = (random.standard_normal((BATCH, KV_HEADS, TOKENS, SIZE), np.float32) for _ in range(2))
    return query, key, value


def definition(query, key, value, causal):
    """In float64 for arrays of numpy, differentiable for those of JAX."""
    xp = jnp if isinstance(query, jax.Array) else np
    query, key, value = (x if xp is jnp else np.asarray(x, np.float64) for x in (query, key, value))
    key, value = (xp.repeat(x, HEADS // KV_HEADS, axis=1) for x in (key, value))
    scores = xp.einsum("bthd,bhsd->bhts", query, key) / np.sqrt(SIZE)
    mask = SEGMENTS[:, :, None] == SEGMENTS[:, None, :]
    if causal:
        mask &= np.tri(TOKENS, dtype=bool)
    weights = xp.where(mask[:, None], xp.exp(scores), 0)
    return xp.einsum("bhts,bhsd->bthd", weights / weights.sum(-1, keepdims=True), value)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [TOKENS, 15, 7, 1])
def test_segments(causal, queries):
    out = dense_attention(*arrays(), SEGMENTS, causal=causal, queries=queries)
    np.testing.assert_allclose(out, definition(*arrays(), causal), atol=1e-5)


def test_a_platform_without_kernels_takes_the_dense_path():
    out = attention(*arrays(), SEGMENTS, causal=True)
    np.testing.assert_array_equal(out, dense_attention(*arrays(), SEGMENTS, causal=True))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [TOKENS, 15, 7])
def test_gradients_are_those_of_the_definition(causal, queries):
    def loss(attend, *arrays):
        return (attend(*arrays) ** 2).sum()

    def ours(*arrays):
        return dense_attention(*arrays, SEGMENTS, causal=causal, queries=queries)

    expected = jax.grad(loss, argnums=(1, 2, 3))(functools.partial(definition, causal=causal), *arrays())
    found = jax.grad(loss, argnums=(1, 2, 3))(ours, *arrays())
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_the_backward_pass_keeps_what_grows_with_the_tokens(causal):
    """Not with their square, as scores do, nor keys and values for every chunk."""

    def kept(tokens):
        shapes = [(2, tokens, HEADS, SIZE), *[(2, KV_HEADS, tokens, SIZE)] * 2]
        attend = functools.partial(dense_attention, segments=np.ones((2, tokens), int), causal=causal, queries=16)
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda *a: jax.vjp(attend, *a)[1], *arrays)))

    assert kept(1024) <= 4.1 * kept(256)


def test_causality_computes_five_eighths_of_the_scores():
    def operations(causal):
        run = functools.partial(dense_attention, causal=causal, queries=4)
        return count_flops(jax.jit(run).trace(*arrays(), SEGMENTS).jaxpr).products

    # Parts of 9, 9, 9 and 10 queries, in chunks of 4 at most; without causality 10 chunks.
    assert operations(True) / operations(False) == (9 * 9 + 9 * 18 + 9 * 27 + 12 * 37) / (40 * 37)


def test_large_scores_do_not_overflow_in_bfloat16():
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in arrays())
    out = dense_attention(query * 1000, key * 1000, value, SEGMENTS, causal=False)
    assert out.dtype == jnp.bfloat16
    assert jnp.isfinite(out).all()


@pytest.mark.parametrize("block", [8, 20, 40])
def test_a_cache_is_read_in_any_blocks(block):
    """Rows that end within the first block, at a border and at the end."""
    random = np.random.default_rng(1)
    query = random.standard_normal((3, 1, HEADS, SIZE), np.float32)
    key, value = (random.standard_normal((3, KV_HEADS, 40, SIZE), np.float32) for _ in range(2))
    last = np.array([[4], [19], [39]])

    def read(i):
        return tuple(jax.lax.dynamic_slice_in_dim(x, i * block, block, 2) for x in (key, value))

    out = cached_attention(query, read, last, block)
    for row, end in enumerate(last[:, 0] + 1):
        keys, values = (np.repeat(x[row, :, :end].astype(np.float64), HEADS // KV_HEADS, 0) for x in (key, value))
        weights = np.exp(np.einsum("hd,hkd->hk", query[row, 0], keys) / np.sqrt(SIZE))
        expected = np.einsum("hk,hkd->hd", weights / weights.sum(-1, keepdims=True), values)
        np.testing.assert_allclose(out[row, 0], expected, atol=1e-5)
