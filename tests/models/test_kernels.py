"""The fused kernels, in the interpreter, against dense attention; and that their platforms' compilers take them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_reasoner_jax.models import kernels
from pixel_reasoner_jax.models.attention import dense_attention

BATCH = 2


def arrays(tokens: int, heads: int, kv_heads: int, size: int, dtype=jnp.float32):
    """Scaled queries, keys, values, and segments: three and padding in the first row, one in the second."""
    random = np.random.default_rng(0)
    query = random.standard_normal((BATCH, tokens, heads, size)) * size**-0.5
    key, value = (random.standard_normal((BATCH, kv_heads, tokens, size)) for _ in range(2))
    ends = tokens // 4, tokens // 3, tokens - 5
    segments = np.stack([np.searchsorted(ends, np.arange(tokens), side="right") + 1, np.ones(tokens)])
    segments[segments == 4] = 0
    return *(jnp.asarray(x, dtype) for x in (query, key, value)), jnp.asarray(segments, jnp.int32)


def value_and_gradients(attend, query, key, value, segments):
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(query.shape), jnp.float32)

    def loss(*arrays):
        out = attend(*arrays, segments)
        return (out.astype(jnp.float32) * weights).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    return out, *gradients


def dense(query, key, value, segments, *, causal):
    """Dense attention of unscaled scores, which is what a kernel computes."""
    return dense_attention(query * query.shape[-1] ** 0.5, key, value, segments, causal=causal)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize(
    "causal, tokens, heads, kv_heads, size",
    [
        (True, 128, 4, 2, 16),  # one block
        (True, 700, 2, 1, 128),  # two blocks of 384, the last filled up
        (False, 300, 2, 2, 80),  # a full layer of the vision tower
    ],
)
def test_equals_dense_attention(platform, causal, tokens, heads, kv_heads, size):
    inputs = arrays(tokens, heads, kv_heads, size)

    def fused(*inputs):
        return kernels.fused_attention(*inputs, causal=causal, platform=platform, interpret=True)

    got = value_and_gradients(fused, *inputs)
    want = value_and_gradients(lambda *inputs: dense(*inputs, causal=causal), *inputs)
    for name, a, b in zip(("out", "query", "key", "value"), got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_bfloat16_is_as_close_as_dense_attention(platform):
    exact = arrays(200, 4, 2, 64)
    rounded = arrays(200, 4, 2, 64, jnp.bfloat16)

    def fused(*inputs):
        return kernels.fused_attention(*inputs, causal=True, platform=platform, interpret=True)

    def error(arrays):
        return [float(jnp.abs(a.astype(jnp.float32) - b).mean()) for a, b in zip(arrays, reference, strict=True)]

    reference = value_and_gradients(lambda *inputs: dense(*inputs, causal=True), *exact)
    ours = error(value_and_gradients(fused, *rounded))
    theirs = error(value_and_gradients(lambda *inputs: dense(*inputs, causal=True), *rounded))
    assert all(a.dtype == jnp.bfloat16 for a in value_and_gradients(fused, *rounded))
    assert all(a < 1.5 * b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)
