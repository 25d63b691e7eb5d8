"""Operations counted by hand, and by XLA where it counts every one."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.models.kernels import fused_attention
from pixel_reasoner_jax.plan.flops import Flops, count_flops


def counted(function, *shapes, loops=()) -> Flops:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flops(jax.jit(function).trace(*arguments).jaxpr, loops)


def test_product_and_what_is_around_it():
    flops = counted(lambda a, b: jax.nn.relu(a @ b + 1.0).sum(), (3, 5), (5, 7))
    assert flops == Flops(2 * 3 * 5 * 7, 21 + 21 + 21)  # plus one, max with 0, sum
    assert flops.share == 210 / 273


def test_batched_product_and_convolution():
    assert counted(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (4, 3, 5), (4, 7, 5)).products == 2 * 4 * 3 * 7 * 5
    convolve = functools.partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="VALID")
    assert counted(convolve, (2, 3, 8, 8), (6, 3, 3, 3)).products == 2 * (2 * 6 * 6 * 6) * (3 * 3 * 3)


def test_scan_counts_every_step_and_its_gradient_with_what_is_computed_again():
    def loss(weights, x, remat):
        def layer(x, weight):
            return jnp.tanh(x @ weight), None

        return jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, weights)[0].sum()

    shapes, once = ((6, 16, 16), (4, 16)), 2 * 4 * 16 * 16
    assert counted(functools.partial(loss, remat=False), *shapes).products == 6 * once
    for remat, times in ((False, 3), (True, 4)):  # forward, the gradients of two operands, and forward again
        gradient = jax.grad(functools.partial(loss, remat=remat), argnums=(0, 1))
        assert counted(gradient, *shapes).products == times * 6 * once


def test_loops_that_end_by_themselves_run_as_often_as_told():
    def inner(x, length):
        return jax.lax.fori_loop(0, length.astype(int)[0], lambda _, x: x @ x, x)

    def outer(x, length):
        return jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: inner(x, length), x)

    once = 2 * 4 * 4 * 4
    assert counted(outer, (4, 4), (1,)).products == once
    assert counted(outer, (4, 4), (1,), loops=(3, 5)).products == 15 * once
    assert counted(inner, (4, 4), (1,), loops=(5,)).products == 5 * once


def test_functions_with_derivatives_of_their_own_count_once():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda kept, out: (out @ kept[1].T, kept[0].T @ out))
    assert counted(product, (4, 4), (4, 4)).products == 2 * 64
    gradient = jax.value_and_grad(lambda a, b: product(a, b).sum(), (0, 1))
    assert counted(gradient, (4, 4), (4, 4)).products == 3 * 2 * 64


def test_what_no_result_needs_does_not_count():
    def layers(x, weights):
        return jax.lax.scan(lambda x, weight: (x @ weight, (x @ x).sum()), x, weights)[0]

    assert counted(layers, (4, 4), (3, 4, 4)).products == 3 * 2 * 64
    # Forwards, and backwards to x alone.
    assert (
        counted(jax.value_and_grad(lambda x, weights: layers(x, weights).sum()), (4, 4), (3, 4, 4)).products
        == 6 * 2 * 64
    )


def test_every_part_of_a_mesh_counts():
    mesh = jax.sharding.AbstractMesh((4, 2), ("rows", "other"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = jax.sharding.PartitionSpec("rows")
    whole = jax.sharding.PartitionSpec()
    mapped = jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(rows, whole), out_specs=rows, axis_names={"rows"})
    assert counted(mapped, (8, 4), (4, 4)).products == 2 * 8 * 4 * 4


def test_the_costlier_branch_counts():
    def branch(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ x, lambda x: x, x)

    assert counted(branch, (4, 4)).products == 2 * 64


@pytest.mark.parametrize("estimate, products", [(pl.CostEstimate(1000, 10, 0), 1000), (None, 4 * 2 * 8 * 8 * 8)])
def test_kernel_counts_what_it_says_else_its_body_for_every_cell(estimate, products):
    def kernel(a, b, out):
        out[...] = a[...] @ b[...]

    def call(a, b):
        whole = pl.BlockSpec((8, 8), lambda i: (0, 0))
        part = pl.BlockSpec((8, 8), lambda i: (i, 0))
        shape = jax.ShapeDtypeStruct((32, 8), jnp.float32)
        return pl.pallas_call(kernel, shape, grid=(4,), in_specs=[part, whole], out_specs=part, cost_estimate=estimate)(
            a, b
        )

    assert counted(call, (32, 8), (8, 8)).products == products


@pytest.mark.parametrize("causal, computed", [(True, 10), (False, 16)])
def test_splash_attention_counts_the_blocks_it_computes(causal, computed):
    """Of 16 blocks, with their exponentials; products as in Dao, 2023: 2 forward and 7 backward in two kernels."""
    tokens, heads, size, rows = 2048, 4, 64, 3

    def loss(query, key, value):
        segments = jnp.ones((rows, tokens), jnp.int32)
        return fused_attention(query, key, value, segments, causal=causal).sum()

    shapes = (rows, tokens, heads, size), (rows, 2, tokens, size), (rows, 2, tokens, size)
    pairs = rows * heads * computed * 512**2
    forward, both = counted(loss, *shapes), counted(jax.grad(loss, (0, 1, 2)), *shapes)
    assert forward.products == 2 * 2 * pairs * size
    assert both.products == 9 * 2 * pairs * size + 2 * rows * heads * tokens * size  # what is out times its gradient
    assert pairs < forward.others < 16 * pairs  # a few for each score, and none for the scores of other blocks


def test_as_xla_counts_a_program_without_loops():
    def loss(a, b, c):
        return jax.nn.silu(a @ b @ c).sum()

    shapes = (64, 128), (128, 96), (96, 160)
    gradient = jax.grad(loss, (0, 1, 2))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    xla = jax.jit(gradient).lower(*arguments).compile().cost_analysis()["flops"]
    assert counted(gradient, *shapes).total == pytest.approx(xla, rel=0.02)


def test_decoder_takes_two_operations_for_every_parameter_and_token():
    """Kaplan et al., 2020: 2 N operations a token, and attention's 4 keys x width, of which two parts compute 3/4."""
    from flax import nnx

    from pixel_reasoner_jax.models import Qwen2_5_VL

    model = nnx.eval_shape(lambda: Qwen2_5_VL(Config.preset("7b"), rngs=nnx.Rngs(0)))
    graph, params = nnx.split(model)
    tokens = 256

    def hidden(params, x, positions, segments):
        return nnx.merge(graph, params).hidden_states(x, positions, segments)

    arguments = (
        jax.ShapeDtypeStruct((1, tokens, 3584), jnp.float32),
        jax.ShapeDtypeStruct((3, 1, tokens), jnp.int32),
        jax.ShapeDtypeStruct((1, tokens), jnp.int32),
    )
    flops = count_flops(jax.jit(hidden).trace(params, *arguments).jaxpr)
    kernels = sum(leaf.size for path, leaf in nnx.to_flat_state(params["language"]["layers"]) if path[-1] == "kernel")
    assert flops.products == 2 * kernels * tokens + 28 * 4 * tokens**2 * 3584 * 3 / 4
    assert flops.share > 0.97
