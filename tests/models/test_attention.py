"""Attention in XLA's operations against its definition in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_reasoner_jax.models.attention import attention, dense_attention
from pixel_reasoner_jax.plan.flops import count_flops

BATCH, TOKENS, HEADS, KV_HEADS, SIZE = 2, 37, 6, 2, 8
SEGMENTS = np.stack([np.repeat([1, 2, 0], [20, 10, 7]), np.repeat([1, 0], [30, 7])])


def arrays():
    random = np.random.default_rng(0)
    query = random.standard_normal((BATCH, TOKENS, HEADS, SIZE), np.float32)
    key, value = (random.standard_normal((BATCH, KV_HEADS, TOKENS, SIZE), np.float32) for _ in range(2))
    return query, key, value


def definition(query, key, value, causal):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    key, value = (np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (key, value))
    scores = np.einsum("bthd,bhsd->bhts", query, key) / np.sqrt(SIZE)
    mask = SEGMENTS[:, :, None] == SEGMENTS[:, None, :]
    if causal:
        mask &= np.tri(TOKENS, dtype=bool)
    weights = np.where(mask[:, None], np.exp(scores), 0)
    return np.einsum("bhts,bhsd->bthd", weights / weights.sum(-1, keepdims=True), value)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [TOKENS, 15, 7, 1])
def test_segments(causal, queries):
    out = dense_attention(*arrays(), SEGMENTS, causal=causal, queries=queries)
    np.testing.assert_allclose(out, definition(*arrays(), causal), atol=1e-5)


def test_a_platform_without_kernels_takes_the_dense_path():
    out = attention(*arrays(), SEGMENTS, causal=True)
    np.testing.assert_array_equal(out, dense_attention(*arrays(), SEGMENTS, causal=True))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [15, 7])
def test_gradients_do_not_depend_on_chunks(causal, queries):
    def loss(queries, *arrays):
        return (dense_attention(*arrays, SEGMENTS, causal=causal, queries=queries) ** 2).sum()

    whole = jax.grad(loss, argnums=(1, 2, 3))(TOKENS, *arrays())
    chunked = jax.grad(loss, argnums=(1, 2, 3))(queries, *arrays())
    for a, b in zip(whole, chunked, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-5)


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
