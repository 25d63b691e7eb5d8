"""Attention against its definition in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_reasoner_jax.models.attention import attention

BATCH, QUERIES, HEADS, KV_HEADS, SIZE = 2, 37, 6, 2, 8


def arrays(keys=QUERIES):
    random = np.random.default_rng(0)
    query = random.standard_normal((BATCH, QUERIES, HEADS, SIZE), np.float32)
    key, value = (random.standard_normal((BATCH, KV_HEADS, keys, SIZE), np.float32) for _ in range(2))
    return query, key, value


def definition(query, key, value, mask):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    key, value = (np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (key, value))
    scores = np.einsum("bthd,bhsd->bhts", query, key) / np.sqrt(SIZE)
    weights = np.where(mask[:, None], np.exp(scores), 0)
    return np.einsum("bhts,bhsd->bthd", weights / weights.sum(-1, keepdims=True), value)


SEGMENTS = np.stack([np.repeat([1, 2, 0], [20, 10, 7]), np.repeat([1, 0], [30, 7])])


@pytest.mark.parametrize("max_scores", [10**6, 5 * QUERIES, 1])
def test_causal_segments(max_scores):
    order = np.broadcast_to(np.arange(QUERIES), (BATCH, QUERIES))
    out = attention(*arrays(), segments=(SEGMENTS, SEGMENTS), last_key=order, max_scores=max_scores)
    mask = (SEGMENTS[:, :, None] == SEGMENTS[:, None, :]) & np.tri(QUERIES, dtype=bool)
    np.testing.assert_allclose(out, definition(*arrays(), mask), atol=1e-5)


def test_last_key_differs_by_row():
    last = np.arange(QUERIES) + np.array([[0], [12]])
    out = attention(*arrays(keys=50), last_key=last)
    mask = np.arange(50) <= last[:, :, None]
    np.testing.assert_allclose(out, definition(*arrays(keys=50), mask), atol=1e-5)


def test_no_mask_at_all():
    mask = np.ones((BATCH, QUERIES, QUERIES), bool)
    np.testing.assert_allclose(attention(*arrays()), definition(*arrays(), mask), atol=1e-5)


def test_gradients_do_not_depend_on_chunks():
    def loss(max_scores, *arrays):
        return (attention(*arrays, segments=(SEGMENTS, SEGMENTS), max_scores=max_scores) ** 2).sum()

    whole = jax.grad(loss, argnums=(1, 2, 3))(10**6, *arrays())
    chunked = jax.grad(loss, argnums=(1, 2, 3))(5 * QUERIES, *arrays())
    for a, b in zip(whole, chunked, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_large_scores_do_not_overflow_in_bfloat16():
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in arrays())
    out = attention(query * 1000, key * 1000, value)
    assert out.dtype == jnp.bfloat16
    assert jnp.isfinite(out).all()
