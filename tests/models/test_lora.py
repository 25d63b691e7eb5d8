"""Adapters: what they compute, what is written of them, and their gradient, by the algebra of one low-rank product."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.models.lora import TARGETS, add_adapters
from tests.forward import forward
from tests.models.helpers import make_row, our_batch, small_config

VISION = dataclasses.replace(small_config().vision, depth=1, fullatt_block_indexes=(0,))
CONFIG = small_config(num_hidden_layers=2, vision=VISION)
NAMES = {
    "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj", "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    return our_batch([make_row([5, (4, 6), 6], 0), make_row([9], 1)], 32, 64, 1)


@pytest.fixture
def model():
    return Qwen2_5_VL.create(CONFIG, seed=4)


def with_noise(model):
    """The same with adapters that matter: b begins as 0."""
    random = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if path[-2:] == ("adapter", "b"):
            variable.set_value(jnp.asarray(random.normal(scale=0.3, size=variable.shape), jnp.float32))
    return model


def gradient(model, batch):
    """Of a mean of squares of the logits with respect to the parameters of the decoder's MLPs."""
    graph, mlp, rest = nnx.split(model, nnx.PathContains("down"), ...)
    return jax.jit(jax.grad(lambda mlp: (nnx.merge(graph, mlp, rest)(batch) ** 2).mean()))(mlp)


def test_new_adapters_change_nothing(model, batch):
    before = forward(model, batch)
    add_adapters(model, rank=4, alpha=8.0)
    adapter = model.language.layers.out.adapter
    assert not adapter.b[...].any()
    np.testing.assert_allclose(
        forward(model, batch), before, atol=1e-6
    )  # on a GPU, another program sums in another order
    a, heads = np.asarray(adapter.a[...]), CONFIG.num_attention_heads
    assert a.shape == (2, heads, CONFIG.head_dim, 4) and adapter.b.shape == (2, 4, CONFIG.hidden_size)
    bound = CONFIG.hidden_size**-0.5  # PEFT's: Kaiming's uniform with a = sqrt(5)
    assert 0.9 * bound < np.abs(a).max() <= bound and abs(a.mean()) < bound / 10
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(*(getattr(model.language.layers, name).adapter.a[...] for name in ("query", "key")))


def test_the_merged_model_computes_the_same(model, batch, tmp_path):
    plain = forward(model, batch)
    with_noise(add_adapters(model, rank=4, alpha=8.0))
    unmerged = forward(model, batch)
    model.save_pretrained(tmp_path)
    merged = Qwen2_5_VL.from_pretrained(tmp_path)
    np.testing.assert_allclose(forward(merged, batch), unmerged, atol=2e-4)
    assert np.abs(unmerged - plain).max() > 0.1


def test_what_is_written_is_the_kernel_and_alpha_over_rank_times_b_a(model, tmp_path):
    """In the layout of PEFT: lora_A [rank, inputs], lora_B [outputs, rank]; what is not a target stays as it is."""
    model.save_pretrained(tmp_path / "plain")
    targets = ("query", "out", "down")
    with_noise(add_adapters(model, rank=3, alpha=12.0, targets=targets))
    model.save_pretrained(tmp_path / "merged")
    plain, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "merged"))
    assert plain.keys() == merged.keys()
    layers = model.language.layers
    changed = set()
    for layer in range(CONFIG.num_hidden_layers):
        for target in targets:
            adapter = getattr(layers if hasattr(layers, target) else layers.mlp, target).adapter
            name = f"model.layers.{layer}.{NAMES[target]}.weight"
            lora_a = np.asarray(adapter.a[layer], np.float64).reshape(-1, 3).T
            lora_b = np.asarray(adapter.b[layer], np.float64).reshape(3, -1).T
            np.testing.assert_allclose(merged[name], plain[name] + 12 / 3 * lora_b @ lora_a, atol=1e-5)
            changed.add(name)
    assert {name for name in plain if not np.array_equal(plain[name], merged[name])} == changed


def test_gradients_are_those_of_the_kernel_by_the_chain_rule(model, batch):
    """Of W + s A B: dA = s dW B^T and dB = s A^T dW, with dW from a model that has the merged kernel."""
    with_noise(add_adapters(model, rank=4, alpha=8.0, targets=("down",)))
    down = gradient(model, batch)["language"]["layers"]["mlp"]["down"]["adapter"]
    a, b = (np.asarray(getattr(model.language.layers.mlp.down.adapter, name)[...]) for name in "ab")

    plain = Qwen2_5_VL.create(CONFIG, seed=4)
    plain.language.layers.mlp.down.kernel[...] += 2.0 * jnp.einsum("lir,lro->lio", a, b)
    kernel = np.asarray(gradient(plain, batch)["language"]["layers"]["mlp"]["down"]["kernel"].get_value())
    np.testing.assert_allclose(down["a"].get_value(), 2 * np.einsum("lio,lro->lir", kernel, b), atol=1e-5, rtol=1e-3)
    np.testing.assert_allclose(down["b"].get_value(), 2 * np.einsum("lir,lio->lro", a, kernel), atol=1e-5, rtol=1e-3)


def test_mistakes_are_named(model):
    with pytest.raises(ValueError, match="'q_proj'; the decoder's projections are query, key"):
        add_adapters(model, 4, 8.0, ("query", "q_proj"))
    with pytest.raises(ValueError, match="lora.targets is empty"):
        add_adapters(model, 4, 8.0, ())
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(add_adapters(model, 0, 8.0, TARGETS)))]
    assert not any("adapter" in path for path in paths)
