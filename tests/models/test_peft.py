"""Adapters in PEFT's form, merged: against the products in float64, and every form that is refused."""

from __future__ import annotations

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from pixel_reasoner_jax.errors import CheckpointError
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.tensors import write_tensors
from pixel_reasoner_jax.models.weights import stored_dtype, tensor_targets

TINY = Config.preset("tiny")
CONFIG = dataclasses.replace(
    TINY,
    vision=dataclasses.replace(TINY.vision, depth=1, fullatt_block_indexes=(0,)),
    num_hidden_layers=2,
    tie_word_embeddings=False,
)
PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of random bfloat16 numbers."""
    directory, random = tmp_path_factory.mktemp("base"), np.random.default_rng(3)
    (directory / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    shapes = {name: target.shape for name, target in tensor_targets(CONFIG).items()}
    layout = {name: (shape, np.dtype(jnp.bfloat16)) for name, shape in shapes.items()}
    arrays = (random.normal(size=shape).astype(jnp.bfloat16) for shape in shapes.values())
    write_tensors(directory / "model.safetensors", layout, arrays)
    return directory


@pytest.fixture
def adapter(base, tmp_path):
    """Writes an adapter: its tensors without PEFT's prefix, and entries of its config."""

    def write(tensors: dict, **config) -> str:
        settings = PLAIN | {"base_model_name_or_path": str(base)} | config
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        tensors = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        return str(tmp_path)

    return write


def factors(module: str, outputs: int, inputs: int, rank: int = 4, seed: int = 0, **shapes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    a, b = shapes.get("a", (rank, inputs)), shapes.get("b", (outputs, rank))
    return {
        f"{module}.lora_A.weight": random.normal(size=a).astype(np.float32),
        f"{module}.lora_B.weight": random.normal(size=b).astype(np.float32),
    }


def product(tensors: dict, module: str) -> np.ndarray:
    a, b = (tensors[f"{module}.lora_{name}.weight"].astype(np.float64) for name in "AB")
    return b.reshape(len(b), -1) @ a.reshape(len(a), -1)


def released(directory, dtype="float32") -> dict[str, np.ndarray]:
    """What is read of a directory, by the released names."""
    model = Qwen2_5_VL.from_pretrained(directory, dtype=dtype)
    state = {path: np.asarray(variable.get_value()) for path, variable in nnx.to_flat_state(nnx.state(model))}
    return {
        name: target.to_released(state[target.path] if target.layer is None else state[target.path][target.layer])
        for name, target in tensor_targets(CONFIG).items()
    }


def assert_changed(directory, base, expected: dict[str, np.ndarray]):
    """The named weights are these, and all others the model's own."""
    own = {name: tensor.astype(np.float64) for name, tensor in load_file(base / "model.safetensors").items()}
    for name, tensor in released(directory).items():
        np.testing.assert_allclose(tensor, expected.get(name, own[name]), rtol=1e-5, atol=1e-5, err_msg=name)
    for name, tensor in expected.items():
        assert np.abs(tensor - own[name]).max() > 1e-2


@pytest.fixture(scope="module")
def own(base):
    return {name: tensor.astype(np.float64) for name, tensor in load_file(base / "model.safetensors").items()}


@pytest.mark.parametrize("prefix", ["", "model."], ids=["released names", "names of transformers 5"])
@pytest.mark.parametrize(
    "targets", [["q_proj", "down_proj", "qkv", "0"], r".*\.(q_proj|down_proj|qkv|0)", "all-linear"]
)
def test_weights_are_the_model_s_and_alpha_over_rank_times_b_a(adapter, base, own, prefix, targets):
    decoder = f"model.{'language_model.' if prefix else ''}layers"
    modules = {
        f"{decoder}.1.self_attn.q_proj": (96, 96, "model.layers.1.self_attn.q_proj"),
        f"{decoder}.0.mlp.down_proj": (96, 256, "model.layers.0.mlp.down_proj"),
        f"{prefix}visual.blocks.0.attn.qkv": (192, 64, "visual.blocks.0.attn.qkv"),
        f"{prefix}visual.merger.mlp.0": (256, 256, "visual.merger.mlp.0"),
    }
    tensors = {}
    for seed, (module, (outputs, inputs, _)) in enumerate(modules.items()):
        tensors |= factors(module, outputs, inputs, seed=seed)
    directory = adapter(tensors, target_modules=targets)
    expected = {
        f"{name}.weight": own[f"{name}.weight"] + 8 / 4 * product(tensors, module)
        for module, (_, _, name) in modules.items()
    }
    assert_changed(directory, base, expected)
    assert stored_dtype(directory) == "bfloat16"


def test_rank_and_alpha_may_be_a_module_s_own_and_the_scale_by_the_root(adapter, base, own):
    layers = [f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "o_proj")]
    ranks, alphas = dict(zip(layers, (4, 2, 4, 2), strict=True)), dict(zip(layers, (8, 8, 16, 32), strict=True))
    tensors = {}
    for seed, module in enumerate(layers):
        tensors |= factors(module, 96, 96, ranks[module], seed)
    patterns = {"layers.1.self_attn.q_proj": 16, r"model\.layers\.1\..*o_proj": 32}
    directory = adapter(tensors, use_rslora=True, rank_pattern={"o_proj": 2}, alpha_pattern=patterns)
    expected = {
        f"{module}.weight": own[f"{module}.weight"] + alphas[module] / np.sqrt(ranks[module]) * product(tensors, module)
        for module in layers
    }
    assert_changed(directory, base, expected)


def test_embeddings_convolutions_and_whole_modules(adapter, base, own):
    """An embedding's product is transposed, a convolution's shaped; what was trained whole replaces the model's."""
    random = np.random.default_rng(5)
    tensors = factors("visual.patch_embed.proj", 64, 0, a=(4, 3, 2, 14, 14), b=(64, 4, 1, 1, 1))
    a, b = random.normal(size=(4, 512)), random.normal(size=(96, 4))
    whole = {
        "lm_head.weight": random.normal(size=(512, 96)),
        "model.norm.modules_to_save.weight": random.normal(size=96),
        "visual.merger.mlp.2.base_layer.bias": random.normal(size=96),
    }
    embedding = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    tensors |= {name: tensor.astype(np.float32) for name, tensor in (embedding | whole).items()}
    directory = adapter(tensors, modules_to_save=["lm_head", "norm"])
    patches = "visual.patch_embed.proj.weight"
    expected = {
        "model.embed_tokens.weight": own["model.embed_tokens.weight"] + 2 * (b @ a).T,
        patches: own[patches] + 2 * product(tensors, "visual.patch_embed.proj").reshape(own[patches].shape),
        "lm_head.weight": whole["lm_head.weight"],
        "model.norm.weight": whole["model.norm.modules_to_save.weight"],
        "visual.merger.mlp.2.bias": whole["visual.merger.mlp.2.base_layer.bias"],
    }
    assert_changed(directory, base, expected)


def test_a_merged_bfloat16_weight_is_rounded_once(adapter, own):
    module = "model.layers.0.self_attn.q_proj"
    tensors = factors(module, 96, 96)
    got = released(adapter(tensors), "bfloat16")[f"{module}.weight"]
    exact = own[f"{module}.weight"] + 2 * product(tensors, module)
    np.testing.assert_array_equal(got.astype(np.float32), exact.astype(np.float32).astype(jnp.bfloat16))


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "tensors, config, message",
    [
        (factors(Q, 96, 96), {"use_dora": True}, "use_dora is True, which is not supported; merge it with PEFT's"),
        (factors(Q, 96, 96), {"peft_type": "IA3"}, "peft_type is 'IA3'; of PEFT's adapters only LORA is read"),
        (factors(Q, 96, 96), {"peft_type": None}, "peft_type is None"),
        (factors(Q, 96, 96), {"lora_bias": True}, "lora_bias is True"),
        (factors(Q, 96, 96), {"layer_replication": [[0, 2]]}, "layer_replication is"),
        (factors(Q, 96, 96), {"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        (factors(Q, 96, 96), {"r": "4"}, "r or rank_pattern has '4'; it must be a number above 0"),
        (factors(Q, 96, 96), {"lora_alpha": None}, "lora_alpha or alpha_pattern has None"),
        (factors(Q, 96, 96), {"rank_pattern": [4]}, "rank_pattern is"),
        (factors(Q, 96, 96), {"alpha_pattern": {"(": 4}}, r"alpha_pattern has '\('"),
        (factors(Q, 96, 96), {"r": 8}, r"has shapes \[4, 96\] and \[96, 4\]; its rank in adapter_config.json is 8"),
        (factors(Q, 96, 48), {}, r"is for a weight of shape \[96, 48\]; the model's is \[96, 96\]"),
        (factors(Q, 96, 96, a=(4,)), {}, r"has shapes \[4\] and \[96, 4\]"),
        (factors("model.layers.7.self_attn.q_proj", 96, 96), {}, "layers.7.self_attn.q_proj is of no module"),
        ({f"{Q}.lora_A.weight": np.ones((4, 96), np.float32)}, {}, "q_proj lacks its lora_B"),
        ({f"{Q}.lora_magnitude_vector": np.ones(96, np.float32)}, {}, "lora_magnitude_vector is no part of a plain"),
        ({"lm_head.weight": np.ones((7, 96), np.float32)}, {}, r"resized after .* vocab_size is 512 in it, write 7"),
        ({}, {}, "holds no tensors of an adapter"),
    ],
)
def test_what_cannot_be_merged_is_named(adapter, tensors, config, message):
    directory = adapter(tensors, **config)
    with pytest.raises(CheckpointError, match=message) as raised:
        Qwen2_5_VL.from_pretrained(directory)
    assert "\n" not in str(raised.value)


def test_an_adapter_without_its_weights_is_named(adapter, tmp_path):
    directory = adapter(factors(Q, 96, 96))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"holds adapter_config.json and no adapter_model.safetensors: save"):
        Qwen2_5_VL.from_pretrained(directory)
    (tmp_path / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path}/adapter_model.safetensors is a Git LFS pointer")):
        Qwen2_5_VL.from_pretrained(directory)
