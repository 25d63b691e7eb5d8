"""The fused kernel, in the interpreter, against dense attention; and whether its platform's compiler takes it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
from jax.extend.core import jaxprs_in_params

from pixel_reasoner_jax.models import attention, kernels
from pixel_reasoner_jax.models.attention import dense_attention
from tests import processes

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
    """Of the real tokens: what padding attends to has no meaning."""
    real = (segments > 0)[:, :, None, None]
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(query.shape), jnp.float32) * real

    def loss(*arrays):
        out = attend(*arrays, segments)
        return (out.astype(jnp.float32) * weights).sum(), out * real

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    return out, *gradients


def dense(query, key, value, segments, *, causal):
    """Dense attention of unscaled scores, which is what a kernel computes."""
    return dense_attention(query * query.shape[-1] ** 0.5, key, value, segments, causal=causal)


@pytest.mark.parametrize(
    "causal, tokens, heads, kv_heads, size",
    [
        (True, 128, 4, 2, 16),  # one block
        (True, 700, 2, 1, 128),  # two blocks of 384, the last filled up
        (False, 300, 2, 2, 80),  # a full layer of the vision tower
    ],
)
def test_equals_dense_attention(causal, tokens, heads, kv_heads, size):
    inputs = arrays(tokens, heads, kv_heads, size)

    def fused(*inputs):
        return kernels.fused_attention(*inputs, causal=causal, interpret=True)

    got = value_and_gradients(fused, *inputs)
    want = value_and_gradients(lambda *inputs: dense(*inputs, causal=causal), *inputs)
    for name, a, b in zip(("out", "query", "key", "value"), got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)


def test_bfloat16_is_as_close_as_dense_attention():
    exact = arrays(200, 4, 2, 64)
    rounded = arrays(200, 4, 2, 64, jnp.bfloat16)

    def fused(*inputs):
        return kernels.fused_attention(*inputs, causal=True, interpret=True)

    def error(arrays):
        return [float(jnp.abs(a.astype(jnp.float32) - b).mean()) for a, b in zip(arrays, reference, strict=True)]

    reference = value_and_gradients(lambda *inputs: dense(*inputs, causal=True), *exact)
    ours = error(value_and_gradients(fused, *rounded))
    theirs = error(value_and_gradients(lambda *inputs: dense(*inputs, causal=True), *rounded))
    assert all(a.dtype == jnp.bfloat16 for a in value_and_gradients(fused, *rounded))
    assert all(a < 1.5 * b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.mark.parametrize("causal", [True, False])
def test_splash_attention_skips_blocks_of_other_segments(monkeypatch, causal):
    """A value that is not a number spoils whatever computes with it, even with weight 0."""
    monkeypatch.setattr(kernels, "BLOCK", 128)
    query, key, value, _ = arrays(512, 4, 2, 16)
    segments = jnp.stack([jnp.repeat(jnp.arange(4), 128), jnp.repeat(jnp.array([1, 2]), 256)])
    poison = jnp.zeros_like(value).at[0, :, 128:256].set(jnp.nan).at[1, :, :256].set(jnp.nan)

    def fused(*inputs):
        return kernels.fused_attention(*inputs, causal=causal, interpret=True)

    out, *gradients = value_and_gradients(fused, query, key, value + poison, segments)
    want, *_ = value_and_gradients(lambda *inputs: dense(*inputs, causal=causal), query, key, value, segments)
    spoiled = np.zeros((2, 512), bool)
    spoiled[0, 128:256] = spoiled[1, :256] = True
    real = ~spoiled & np.asarray(segments > 0)
    np.testing.assert_allclose(np.asarray(out)[real], np.asarray(want)[real], atol=2e-5)
    assert np.isnan(np.asarray(out)[spoiled]).all()
    for gradient in (gradients[0], gradients[1].swapaxes(1, 2), gradients[2].swapaxes(1, 2)):
        assert np.isfinite(np.asarray(gradient)[real]).all()


SHARDED = """
import jax, numpy as np
from pixel_reasoner_jax.models import kernels
from pixel_reasoner_jax.models.attention import dense_attention
from pixel_reasoner_jax.parallel import make_mesh
from pixel_reasoner_jax.parallel.sharding import sharding

def run(attend, segments, weights, arrays):
    def loss(*arrays):
        out = attend(*arrays, segments, causal=True)
        return (out * weights).sum(), out * real

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return out, *gradients

for batch, heads, kv_heads, tensor in (
    (4, 4, 2, 2),  # everything divides
    (3, 8, 4, 4),  # rows do not: computed by all
):
    mesh = make_mesh({"data": 2, "fsdp": -1, "tensor": tensor})
    random = np.random.default_rng(0)
    query, weights = random.standard_normal((2, batch, 150, heads, 16), np.float32)
    key, value = random.standard_normal((2, batch, kv_heads, 150, 16), np.float32)
    segments = np.tile(np.repeat([1, 2, 0], 50), (batch, 1)).astype(np.int32)
    real = (segments > 0)[:, :, None, None]
    weights *= real
    axes = ("batch", None, "heads", None), ("batch", "kv_heads", None, None), ("batch", "kv_heads", None, None)
    arrays = [jax.device_put(x, sharding(a, x.shape, mesh)) for x, a in zip((query, key, value), axes, strict=True)]

    def fused(query, *arrays, causal):
        options = dict(causal=causal, mesh=mesh, interpret=True)
        return kernels.fused_attention(query * 16**-0.5, *arrays, **options)

    ours = run(fused, segments, weights, arrays)
    theirs = run(dense_attention, segments, weights, (query, key, value))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=str((batch, heads, kv_heads, tensor)))
print("equal")
"""


def test_eight_devices_equal_dense_attention():
    processes.on_devices(8, SHARDED)


COMPILED = """
import re, sys
import jax, jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.parallel import make_mesh, param_shardings

mesh = make_mesh({"fsdp": 2, "tensor": 2}, topologies.get_topology_desc(sys.argv[1], platform="tpu").devices)
create = lambda: Qwen2_5_VL(Config.preset("tiny"), rngs=nnx.Rngs(0), dtype="bfloat16", remat="dots", mesh=mesh)
graph, params = nnx.split(nnx.eval_shape(create))
int32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
batch = dict(tokens=int32(4, 200), positions=int32(3, 4, 200), segment_ids=int32(4, 200), vision_index=int32(4, 200))
batch["vision"] = dict(
    patches=jax.ShapeDtypeStruct((2, 256, 1176), jnp.uint8),
    scaling=jax.ShapeDtypeStruct((2, 2, 3), jnp.float32),
    patch_positions=int32(2, 256, 2),
    patch_segments=int32(2, 256),
)

def loss(params, batch):
    return nnx.merge(graph, params)(batch).mean()

lowered = jax.jit(jax.grad(loss), in_shardings=(param_shardings(params, mesh), None)).lower(params, batch)
text = lowered.compile().as_text()
print(*re.findall(r"%splash_mha_([a-z]+)_.* custom-call[(]", text))
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="compiling for TPU needs the package libtpu")
def test_the_model_compiles_for_tpu_with_its_kernels():
    """Two layers of the decoder and one of the tower: a kernel forward, which remat does not repeat, two backward."""
    environment = dict(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", JAX_ENABLE_COMPILATION_CACHE="0")
    calls = _python(COMPILED, "v5e:2x2", **environment).split()
    assert sorted(calls) == ["dkv"] * 3 + ["dq"] * 3 + ["fwd"] * 3


@pytest.mark.parametrize("platform, tokens, used", [("tpu", 128, 1), ("gpu", 128, 0), ("cpu", 128, 0), ("tpu", 64, 0)])
def test_the_devices_of_the_mesh_decide(monkeypatch, platform, tokens, used):
    seen = []

    def record(query, *_, **__):
        seen.append(query)
        return query

    monkeypatch.setattr(kernels, "fused_attention", record)
    mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))
    attention.attention(*arrays(tokens, 4, 2, 16), causal=True, mesh=mesh)
    assert len(seen) == used


@pytest.mark.parametrize("tokens, causal", [(1100, True), (1100, False), (300, True)])
def test_flops_are_those_of_the_kernels_products(tokens, causal):
    """The products in each kernel's body, as often as the kernel's own table of blocks has one to compute."""
    inputs = arrays(tokens, 4, 2, 16)

    def loss(*arrays):
        return kernels.fused_attention(*arrays, inputs[3], causal=causal).sum()

    block, blocks = kernels._blocks(tokens)
    computed = blocks**2
    if causal:
        mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((block * blocks,) * 2)])
        sizes = splash_attention_kernel.BlockSizes(block_q=block, block_kv=block)
        table = splash_attention_kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)
        computed = np.count_nonzero(table.fwd_mask_info.block_mask)
    times = computed * BATCH * inputs[0].shape[2]
    found = {
        "_".join(name.split("_")[:3]): times * sum(_product_flops(equation) for equation in _equations(body))
        for name, body in _kernel_calls(jax.grad(loss, argnums=(0, 1, 2)), *inputs[:3])
    }
    assert found == kernels.attention_flops(BATCH, tokens, 4, 16, causal=causal)


def _kernel_calls(function, *arguments):
    """Name and body of each kernel that a function calls."""
    for equation in _equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if equation.primitive.name == "pallas_call":
            yield equation.params["name"], equation.params["jaxpr"]


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _product_flops(equation) -> int:
    if equation.primitive.name != "dot_general":
        return 0
    left, contracted = equation.invars[0].aval.shape, equation.params["dimension_numbers"][0][0]
    return 2 * equation.outvars[0].aval.size * int(np.prod([left[i] for i in contracted]))


def _python(script: str, *arguments, **environment) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout
