"""On a mesh, state lies where its parameters do; a checkpoint of one goes on on another, and on one device."""

import pytest

from tests import processes

SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from pixel_reasoner_jax.checkpoint import Checkpoints
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.parallel import make_mesh, param_shardings, parts
from pixel_reasoner_jax.training import sft
from pixel_reasoner_jax.training.state import Trainer

random = np.random.default_rng(0)
tokens = random.integers(0, 512, (8, 32)).astype(np.int32)
batch = {
    "tokens": tokens,
    "positions": np.tile(np.arange(32, dtype=np.int32), (3, 8, 1)),
    "segment_ids": np.ones((8, 32), np.int32),
    "vision": {
        "patches": random.integers(0, 256, (8, 64, 1176), np.uint8),
        "scaling": np.full((8, 2, 3), [[128], [1 / 64]], np.float32),
        "patch_positions": np.stack(np.divmod(np.arange(64), 8), -1)[None].repeat(8, 0).astype(np.int32),
        "patch_segments": np.ones((8, 64), np.int32),
    },
    "targets": np.tile(np.arange(20, 32, dtype=np.int32), (8, 1)),
    "target_mask": np.ones((8, 12), np.float32), "temperatures": np.ones((8, 12), np.float32),
    "advantages": np.zeros((8, 12), np.float32), "logprobs": np.zeros((8, 12), np.float32),
}

def batches(trainer):
    # As the trainer's mesh takes it: rows number the images of their own part.
    row = np.arange(8)[:, None] % (8 // parts(trainer._mesh))
    index = np.where(np.arange(32) < 16, np.arange(32) + 16 * row, -1).astype(np.int32)
    return [{**batch, "vision_index": index}]

def make(mesh, seed):
    mesh = mesh and make_mesh(mesh)
    return Qwen2_5_VL.create(Config.preset("tiny"), seed, mesh=mesh, dtype=jnp.float32, param_dtype=jnp.bfloat16)

def trainer(mesh, seed):
    optimizer = optax.adam(1e-2, eps=1e-2)
    return Trainer(make(mesh, seed), optimizer, sft._loss, freeze_vision=True, master_weights=True)

def equal(one, other, atol):
    for (path, a), (_, b) in zip(*(jax.tree_util.tree_leaves_with_path(t) for t in (one, other)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=atol, err_msg=str(path))

where = lambda tree: [leaf.sharding for leaf in jax.tree.leaves(tree)]

def begin(trainer):
    state = trainer.init()
    moments = state.optimizer[0]
    assert where(moments.mu) == where(state.trainable) == where(moments.nu)
    return state

begin(Trainer(make({"fsdp": 4, "tensor": 2}, 0), optax.adamw(1e-3), sft._loss))  # the vision tower's too
first = trainer({"data": 2, "fsdp": 4}, 3)
state = begin(first)
before = where(state)
state, _ = first.update(state, batches(first), 1.0)
assert all(a.is_equivalent_to(b, leaf.ndim) for a, b, leaf in zip(where(state), before, jax.tree.leaves(state)))
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, state, {})
    checkpoints.wait()
    saved = jax.tree.map(np.array, state)
    state, metrics = first.update(state, batches(first), 1.0)
    for mesh in ({"data": 2, "fsdp": 2, "tensor": 2}, None)[: int(sys.argv[2])]:
        other = trainer(mesh, 9)
        target = begin(other)
        restored, _ = checkpoints.restore(target)
        assert where(restored) == where(target)
        equal(saved, restored, 0)
        updated, others = other.update(restored, batches(other), 1.0)
        np.testing.assert_allclose(others["loss"], metrics["loss"], rtol=1e-5)
        np.testing.assert_allclose(others["gradient_norm"], metrics["gradient_norm"], rtol=1e-3)
        # Gradients of bfloat16 parameters are rounded, and a parameter may be, the other way.
        equal((state.master, state.optimizer), (updated.master, updated.optimizer), 1e-4)
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), updated.master, saved.master)
        assert max(jax.tree.leaves(moved)) > 1e-3
    restored, _ = checkpoints.restore(state)
first.update(restored, 2 * batches(first), 1.0)  # what was restored lies where the update wants it

model = add_adapters(make({"data": 2, "fsdp": 2, "tensor": 2}, 3), rank=2, alpha=8.0)
params = nnx.state(model)
assert jax.tree.all(jax.tree.map(lambda p, s: p.sharding == s, params, param_shardings(params, model.mesh)))
adapter = model.language.layers.mlp.up.adapter
assert adapter.a[...].sharding.shard_shape(adapter.a.shape) == (2, 48, 2)
assert adapter.b[...].sharding.shard_shape(adapter.b.shape) == (2, 2, 128)
print("equal")
"""


@pytest.mark.parametrize("others", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_state_lies_with_its_parameters_and_is_restored_on_other_meshes(tmp_path, others):
    processes.on_devices(8, SCRIPT, tmp_path, others)
