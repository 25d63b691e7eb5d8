"""A mesh of eight devices computes what one device computes."""

from __future__ import annotations

import types

import pytest
from flax import nnx

from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.parallel import MeshError
from pixel_reasoner_jax.parallel.sharding import RULES, check_sizes
from tests import processes

SCRIPT = """
import dataclasses, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from pixel_reasoner_jax.models import Config, Qwen2_5_VL, weights
from pixel_reasoner_jax.models.cache import Pages
from pixel_reasoner_jax.parallel import shard_rows, make_mesh, param_shardings

assert len(jax.devices()) == 8
mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": -1})
config = dataclasses.replace(Config.preset("tiny"), tie_word_embeddings=False)
single = Qwen2_5_VL.create(config, seed=3)
single.save_pretrained(sys.argv[1])
weights.BUFFER = 1  # layer by layer
sharded = Qwen2_5_VL.from_pretrained(sys.argv[1], mesh=mesh)

random = np.random.default_rng(0)
tokens = random.integers(0, 512, (4, 24)).astype(np.int32)
batch = {
    "tokens": tokens,
    "positions": np.tile(np.arange(24, dtype=np.int32), (3, 4, 1)),
    "segment_ids": np.ones((4, 24), np.int32),
    "vision_index": np.where(np.arange(24) < 16, np.arange(24) + 16 * np.arange(4)[:, None], -1).astype(np.int32),
    "vision": {
        "patches": random.integers(0, 256, (4, 64, 1176), np.uint8),
        "scaling": np.full((4, 2, 3), [[128], [1 / 64]], np.float32),
        "patch_positions": np.stack(np.divmod(np.arange(64), 8), -1)[None].repeat(4, 0).astype(np.int32),
        "patch_segments": np.ones((4, 64), np.int32),
    },
}

def step(graph):
    def loss(params, batch):
        logits = nnx.merge(graph, params)(batch)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][..., None], -1).mean(), logits

    def update(params, batch):
        (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch)
        return logits, jax.tree.map(lambda p, g: p - 10 * g, params, gradients)

    return update

graph, params = nnx.split(single)
logits, updated = jax.jit(step(graph))(params, batch)

graph, params = nnx.split(sharded)
shardings = param_shardings(params, mesh)
params_match = jax.tree.map(lambda p, s: p.sharding == s, params, shardings)
assert jax.tree.all(params_match), params_match
query = params["language"]["layers"]["query"]["kernel"].get_value()
assert query.sharding.shard_shape(query.shape) == (2, 48, 2, 24), query.sharding
assert shardings["language"]["layers"]["norm1"]["scale"].get_value().is_fully_replicated
placed = shard_rows(batch, mesh)
assert placed["positions"].sharding.shard_shape((3, 4, 24)) == (3, 1, 24)
assert placed["vision"]["patches"].sharding.shard_shape((4, 64, 1176)) == (1, 64, 1176)
logits8, updated8 = jax.jit(step(graph), out_shardings=(None, shardings))(params, placed)

np.testing.assert_allclose(logits8, logits, atol=1e-5)
moved = 0.0
for (path, a), (_, b), (_, before) in zip(
    nnx.to_flat_state(updated), nnx.to_flat_state(updated8), nnx.to_flat_state(nnx.state(single)), strict=True
):
    np.testing.assert_allclose(b.get_value(), a.get_value(), atol=2e-5, err_msg=str(path))
    moved = max(moved, float(jnp.abs(a.get_value() - before.get_value()).max()))
assert moved > 0.01, moved

def extend(graph):
    def run(params, tokens, positions, counts, cache, pages):
        model = nnx.merge(graph, params)
        return model.extend(model.embed(tokens), positions, counts, cache, pages)
    return run

counts = np.array([24, 3, 0, 10], np.int32)
arguments = batch["tokens"], batch["positions"], counts
starts = np.zeros(4, np.int32)
pages, pages8 = Pages(starts, np.arange(16).reshape(4, 4)), Pages(starts, np.tile(np.arange(4), (4, 1)))  # of the part
hidden, cache = jax.jit(extend(nnx.split(single)[0]))(nnx.state(single), *arguments, single.init_cache(16, 8), pages)
hidden8, cache8 = jax.jit(extend(graph))(params, *arguments, jax.jit(lambda: sharded.init_cache(16, 8))(), pages8)
np.testing.assert_allclose(hidden8, hidden, atol=1e-5)
np.testing.assert_allclose(cache8.keys, cache.keys, atol=1e-5)

created = Qwen2_5_VL.create(config, seed=3, mesh=mesh)
for (path, a), (_, b) in zip(
    nnx.to_flat_state(nnx.state(single)), nnx.to_flat_state(nnx.state(created)), strict=True
):
    np.testing.assert_allclose(b.get_value(), a.get_value(), atol=1e-6, err_msg=str(path))
print("equal")
"""


def test_eight_devices_equal_one(tmp_path):
    processes.on_devices(8, SCRIPT, tmp_path)


def test_every_parameter_names_its_axes():
    names = {"head", "norm", None, *RULES}
    for preset in ("7b", "3b"):
        config = Config.preset(preset)
        abstract = nnx.eval_shape(lambda config=config: Qwen2_5_VL(config, rngs=nnx.Rngs(0)))
        for path, variable in nnx.to_flat_state(nnx.state(abstract)):
            axes = variable.get_metadata()["axes"]
            assert set(axes) <= names
            assert len(variable.shape) == len(axes) + ("layers" in path)
            if variable.size > 10**7:  # what is large is split both ways
                assert "embed" in axes and {"heads", "kv_heads", "mlp", "vocab"} & set(axes), path


@pytest.mark.parametrize("preset", ["tiny", "3b", "7b", "32b", "72b"])
def test_the_sizes_that_a_mesh_must_divide_are_those_of_the_parameters(preset):
    config = Config.preset(preset)
    abstract = nnx.eval_shape(lambda: Qwen2_5_VL(config, rngs=nnx.Rngs(0)))
    found = {}
    for _path, variable in nnx.to_flat_state(nnx.state(abstract)):
        axes = variable.get_metadata()["axes"]
        for name, size in zip(axes, variable.shape[-len(axes) :], strict=True):
            if name in RULES and name != "vocab":
                found.setdefault(name, set()).add(size)
    assert {name: set(sizes.values()) for name, sizes in config.divisible.items()} == found


@pytest.mark.parametrize(
    ("preset", "axis", "most", "wrong", "said"),
    [
        ("3b", "tensor", 2, 4, "tensor=4 does not divide this model's num_key_value_heads 2: tensor could be 1 or 2"),
        ("7b", "tensor", 4, 8, "num_attention_heads 28 and num_key_value_heads 4 and vision_config.intermediate_size"),
        ("32b", "tensor", 8, 5, "tensor could be 1 or 2 or 4 or 8"),
        ("72b", "tensor", 8, 16, "num_key_value_heads 8"),
        ("7b", "fsdp", 256, 12, "fsdp=12 does not divide this model's hidden_size 3584 and vision_config.hidden_size"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_refused(preset, axis, most, wrong, said):
    config = Config.preset(preset)
    mesh = types.SimpleNamespace(shape={"data": 3, "fsdp": 1, "tensor": 1, axis: most})
    check_sizes(config.divisible, mesh.shape)
    mesh.shape[axis] = wrong
    with pytest.raises(MeshError, match=said):
        nnx.eval_shape(lambda: Qwen2_5_VL(config, rngs=nnx.Rngs(0), mesh=mesh))
