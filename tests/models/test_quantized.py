"""Matrices in int8: how far they are from those that were rounded, and a model that computes with them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.inference import decoder_matrices, inference_parameters
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.models.quantized import Quantized


def exact(quantized: Quantized) -> np.ndarray:
    return np.asarray(quantized.values, np.float64) * np.asarray(quantized.scale, np.float64)


@pytest.mark.parametrize(
    "shape, summed",
    [((48, 4, 8), (0,)), ((4, 8, 48), (0, 1)), ((32, 24), (1,))],
    ids=["query", "out", "head"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_is_as_near_as_its_rounding(shape, summed, dtype):
    """By half a step of each channel for every input, and by no more than the type's own rounding beside that."""
    rng = np.random.default_rng(0)
    # Channels a million times as large as others.
    channels = np.where(np.isin(range(len(shape)), summed), 1, shape)
    matrix = rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3, channels)
    inputs = [shape[axis] for axis in summed]
    x = np.asarray(jnp.asarray(rng.normal(size=(5, *inputs)), dtype), np.float64)
    quantized = Quantized.of(jnp.asarray(matrix, jnp.float32), summed)
    assert quantized.values.dtype == jnp.int8 and quantized.values.shape == shape
    assert np.array_equal(quantized.scale.shape, channels)
    step = np.broadcast_to(np.asarray(quantized.scale, np.float64), shape)
    assert (np.abs(exact(quantized) - matrix) <= step / 2 * (1 + 1e-5)).all()
    assert np.abs(np.asarray(quantized.values)).max(summed).min() == 127  # of every channel, its whole range

    axes = tuple(range(1, 1 + len(summed))), summed
    size = np.tensordot(np.abs(x), np.abs(exact(quantized)), axes)
    for results, own in (("float32", 1e-5), (dtype, 1e-5 if dtype == "float32" else 2**-7)):
        product = quantized.product(jnp.asarray(x, dtype), summed, results)
        assert product.dtype == results and product.shape == size.shape
        product = np.asarray(product, np.float64)
        np.testing.assert_array_less(np.abs(product - np.tensordot(x, exact(quantized), axes)), own * size)
        bound = np.tensordot(np.abs(x), step / 2, axes) + own * size
        np.testing.assert_array_less(np.abs(product - np.tensordot(x, matrix, axes)), bound)


def test_channels_of_zeros_stay_zero():
    quantized = Quantized.of(jnp.zeros((3, 4)).at[0].set(1.0), (1,))
    assert exact(quantized) == pytest.approx(np.array([[1.0] * 4, [0.0] * 4, [0.0] * 4]), rel=1e-6)


def model_of(config: Config) -> Qwen2_5_VL:
    return add_adapters(Qwen2_5_VL.create(config, 3), 2, 4.0)


def rounded(model: Qwen2_5_VL, dtype: str = "float32") -> nnx.State:
    variables = dict(nnx.to_flat_state(nnx.state(model)))
    return nnx.from_flat_state(inference_parameters(variables, dtype, decoder_matrices(model)))


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_computes_what_it_computes_with_the_rounded_values(tied):
    model = model_of(dataclasses.replace(Config.preset("tiny"), tie_word_embeddings=tied))
    graph, params = nnx.split(model)
    taken = rounded(model)
    ints = {path for path, variable in nnx.to_flat_state(taken) if isinstance(variable.get_raw_value(), Quantized)}
    kept = {path for path, _ in nnx.to_flat_state(params)} - ints
    assert all(path[0] == "vision" or {"bias", "scale", "adapter"} & set(path) for path in kept)
    assert {path[-1] for path in ints} == ({"kernel", "embedding"} if tied else {"kernel", "embedding", "head"})
    assert len(ints) == 7 + (1 if tied else 2) and not any(path[0] == "vision" for path in ints)

    def whole(variable):
        value = variable.get_raw_value()
        return variable.replace(jnp.asarray(exact(value), jnp.float32) if isinstance(value, Quantized) else value)

    values = jax.tree.map(whole, taken, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    tokens = jnp.arange(24).reshape(2, 12)
    positions = jnp.broadcast_to(jnp.arange(12), (3, 2, 12))

    @jax.jit
    def logits(params):
        model = nnx.merge(graph, params)
        return model.logits(model.hidden_states(model.embed(tokens), positions, jnp.ones_like(tokens)))

    got, expected, before = (np.asarray(logits(p)) for p in (taken, values, params))
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert 1e-4 < np.abs(got - before).mean() < 0.05 * np.abs(before).mean()
