"""Parameters as rollouts take them: the same values, in fewer bytes and other places, made once."""

from __future__ import annotations

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models import Config, Qwen2_5_VL, cache
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.models.quantized import Quantized
from pixel_reasoner_jax.parallel import MeshError
from pixel_reasoner_jax.parallel import mesh as mesh_module
from pixel_reasoner_jax.rollout.layout import Layout, check_cache, rollout_mesh
from tests import processes
from tests.rollout.test_policy import full_logprobs
from tests.rollout.zooming_policy import TURNS, assert_same, zooming

MESHES = """
import dataclasses, json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.quantized import Quantized
from pixel_reasoner_jax.parallel import make_mesh, mesh, param_shardings
from pixel_reasoner_jax.rollout import layout as layout_module
from pixel_reasoner_jax.rollout.layout import Layout

layout_module.ORDERED = ("cpu",)  # in place of TPUs
in_order = mesh._arrange
config = dataclasses.replace(Config.preset("tiny"), num_key_value_heads=4, tie_word_embeddings=False)
single = Qwen2_5_VL.create(config, 3, dtype="bfloat16")
graph, params = nnx.split(single)
wanted = {weights: Layout(graph, params, {}, weights)(params) for weights in (None, "int8")}
for own, rollouts, weights, reorders in json.loads(sys.argv[1]):
    model_mesh = make_mesh(own)
    model = nnx.merge(graph, jax.device_put(params, param_shardings(params, model_mesh)))
    model.compute_on(model_mesh)
    # As where the links between chips want another order.
    mesh._arrange = (lambda sizes, devices: in_order(sizes, devices[::-1])) if reorders else in_order
    layout = Layout(*nnx.split(model), rollouts, weights)
    mesh._arrange = in_order
    assert (list(layout.mesh.devices.flat) != list(model_mesh.devices.flat)) == reorders
    tensor = rollouts.get("tensor", own.get("tensor", 1))
    fsdp = rollouts.get("fsdp", 1)
    assert layout.mesh.shape == dict(data=8 // fsdp // tensor, fsdp=fsdp, tensor=tensor)
    moved = layout(nnx.state(model))
    taken = nnx.merge(layout.graphdef, moved)
    assert taken.mesh == taken.language.mesh == taken.vision.mesh == layout.mesh and model.mesh == model_mesh
    assert jax.tree.map(lambda x: x.sharding, moved) == param_shardings(moved, layout.mesh)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), moved) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), layout.params
    )
    assert any(isinstance(v.get_raw_value(), Quantized) for _, v in nnx.to_flat_state(moved)) == (weights == "int8")
    for got, value in zip(*map(jax.tree.leaves, (moved, wanted[weights])), strict=True):
        assert got.dtype == value.dtype
        np.testing.assert_array_equal(got, value)
    for path, variable in nnx.to_flat_state(moved):
        for leaf in jax.tree.leaves(variable):
            is_to_heads = path[0] == "language" and path[-2] in ("query", "key", "value") and leaf.ndim == 4
            order = (0, 2, 1, 3) if is_to_heads and path in layout.copied else tuple(range(leaf.ndim))
            assert leaf.format.layout.major_to_minor == order, path
    assert (layout.gather == []) == (layout.mesh == model_mesh)
print("equal")
"""


SPREAD_OUT, REPLICAS = dict(fsdp=-1), dict(data=-1)
IN_PAIRS, IN_FOURS = dict(data=2, fsdp=-1, tensor=2), dict(fsdp=-1, tensor=4)


@pytest.mark.parametrize(
    "cases",
    [
        [(SPREAD_OUT, dict(tensor=4), "int8", False)],
        pytest.param(
            [
                (SPREAD_OUT, {}, None, False),
                (IN_PAIRS, {}, "int8", False),
                (IN_PAIRS, dict(tensor=2, fsdp=4), None, False),
                (IN_PAIRS, dict(tensor=4, fsdp=2), None, True),
                (SPREAD_OUT, dict(tensor=4), "int8", True),
                (IN_FOURS, dict(tensor=2), "int8", False),
                (REPLICAS, {}, None, False),
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_on_a_mesh_of_their_own_parameters_have_the_same_values(cases):
    processes.on_devices(8, MESHES, json.dumps(cases))


def test_a_model_computes_the_same_with_them_to_the_bit():
    """Also the float32 that norms need, beside projections, embeddings, a head of its own and adapters."""
    model = Qwen2_5_VL.create(Config.preset("tiny"), 3, dtype="bfloat16")
    add_adapters(model, 2, 4.0)
    graph, params = nnx.split(model)
    layout = Layout(graph, params, {})
    taken = layout(params)
    assert np.array_equal(*(jax.tree.leaves(tree)[0].astype("bfloat16") for tree in (params, taken)))
    assert layout.mesh is None and layout.graphdef == graph
    assert jax.tree.map(lambda x: x.dtype, taken) == jax.tree.map(lambda x: x.dtype, layout.params)
    types_of = {path: variable.dtype for path, variable in nnx.to_flat_state(taken)}
    assert {dtype for path, dtype in types_of.items() if path[-1] == "scale"} == {jnp.dtype("float32")}
    assert {dtype for path, dtype in types_of.items() if path[-1] != "scale"} == {jnp.dtype("bfloat16")}
    tokens = jnp.arange(24).reshape(2, 12)
    positions = jnp.broadcast_to(jnp.arange(12), (3, 2, 12))

    @jax.jit
    def logits(params):
        model = nnx.merge(graph, params)
        return model.logits(model.hidden_states(model.embed(tokens), positions, jnp.ones_like(tokens)))

    exact = {"xla_allow_excess_precision": False}  # or a compiler may leave out what rounds
    one, other = (logits.lower(p).compile(exact)(p) for p in (params, taken))
    np.testing.assert_array_equal(one, other)


def test_nothing_is_copied_that_is_there_already(world):
    graph, params = nnx.split(world[0])
    layout = Layout(graph, params, {})
    assert layout.prepare == layout.gather == [] and not layout.copied
    assert all(one is other for one, other in zip(*map(jax.tree.leaves, (params, layout(params))), strict=True))
    rounded = nnx.eval_shape(lambda: Qwen2_5_VL(Config.preset("tiny"), rngs=nnx.Rngs(0), param_dtype="bfloat16"))
    assert Layout(*nnx.split(rounded), {}).prepare == []  # in float32 they would be no fewer bytes


def test_they_are_made_once_and_until_they_are_dropped(world, queries, monkeypatch):
    """A rollout that still runs keeps its own; what has been encoded goes with them."""
    policy, calls = zooming(world, slots=2), []
    layout = policy.runtime.layout
    monkeypatch.setattr(policy.runtime, "layout", lambda params: calls.append(params) or layout(params))
    expected = policy.rollout(queries[:2], samples=2, seed=1, sampling=TURNS)
    encoded = policy.counters.encoded
    assert_same(policy.rollout(queries[:1], samples=2, seed=1, sampling=TURNS)[0], expected[0])
    assert len(calls) == 1 and policy.counters.encoded == encoded
    policy.release()
    with policy.stream(queries[:2], samples=2, seed=1, sampling=TURNS) as stream:
        finished = [next(stream)]
        policy.release()
        finished += stream
    for number, trajectory in finished:
        assert_same([trajectory], [expected[number][trajectory.sample]])
    assert len(calls) == 2 and policy.counters.encoded == 2 * encoded
    policy.params = policy.params
    policy.rollout(queries[:1], sampling=TURNS)
    assert len(calls) == 3


def whole(variable: nnx.Variable) -> nnx.Variable:
    """A parameter with the values that it is rounded to."""
    value = variable.get_raw_value()
    return variable.replace(value.values * value.scale) if isinstance(value, Quantized) else variable


def test_int8_rollouts_have_the_log_probabilities_that_they_sample_from(world, queries):
    policy, trained, rounded = zooming(world, weights="int8"), zooming(world), zooming(world)
    [group] = policy.rollout(queries[:1], samples=2, seed=1, sampling=TURNS)
    taken = policy.runtime.rollout_params()
    rounded.params = jax.tree.map(whole, taken, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    assert len(jax.tree.leaves(taken)) > len(jax.tree.leaves(policy.params))  # these stay as they are
    for trajectory in group:
        sampled = trajectory.train[1:]
        for other, agrees in ((rounded, True), (trained, False)):
            for logprobs, full in zip(
                (trajectory.logprobs, trajectory.policy_logprobs), full_logprobs(other, trajectory), strict=True
            ):
                assert (np.abs(logprobs[1:] - full)[sampled].max() < 1e-4) == agrees
    with pytest.raises(UserError, match="weights is 'int4'; it is 'int8', or None"):
        zooming(world, weights="int4")


@pytest.mark.parametrize(
    "hosts, shape, says",
    [
        (
            1,
            dict(tensor=3),
            r"rollout\.mesh data=-1 x fsdp=1 x tensor=3 takes a multiple of 3 devices, but there are 8",
        ),
        (1, dict(data=8, tensor=2), r"rollout\.mesh .* takes 16 devices, but there are 8: data could be 4"),
        (4, dict(tensor=4), r"rollout\.mesh: tensor=4 spans several processes, which have 2 devices each"),
        (1, dict(tensor=8), r"rollout\.mesh: tensor=8 does not divide this model's .*: tensor could be 1 or 2 or 4$"),
        (1, dict(model=8), r"rollout\.mesh has no axis 'model'"),
    ],
)
def test_an_impossible_mesh_says_what_would_fit(monkeypatch, hosts, shape, says):
    def arrange(sizes, devices):
        shaped = np.array(devices).reshape(tuple(sizes.values()))
        return types.SimpleNamespace(shape=sizes, devices=shaped, size=len(devices))

    monkeypatch.setattr(mesh_module, "_arrange", arrange)
    devices = [types.SimpleNamespace(id=i, process_index=i * hosts // 8) for i in range(8)]
    own = arrange(dict(data=1, fsdp=8, tensor=1), devices)
    with pytest.raises(MeshError, match=f"^{says}"):
        rollout_mesh(own, shape, Config.preset("7b"))


def test_one_device_has_no_other_mesh():
    assert rollout_mesh(None, dict(data=-1, fsdp=1, tensor=0), Config.preset("7b")) is None
    with pytest.raises(MeshError, match=r"^rollout\.mesh .*tensor=2 takes a multiple of 2 devices, but there are 1"):
        rollout_mesh(None, dict(tensor=2), Config.preset("7b"))


@pytest.mark.parametrize(
    ("kv_heads", "tensor", "dtype", "remedy"),
    [
        (4, 4, "int8", "rollout.mesh.tensor could be 1 or 2, or give rollout.cache_dtype another type"),
        (2, 2, "int8", "rollout.mesh.tensor could be 1, or give rollout.cache_dtype another type"),
        (3, 1, "int8", "in int8: give rollout.cache_dtype another type"),
        (4, 2, "int8", None),
        (4, 4, "bfloat16", None),
    ],
)
def test_heads_that_the_kernel_cannot_read_are_refused(monkeypatch, kv_heads, tensor, dtype, remedy):
    mesh = types.SimpleNamespace(shape={"tensor": tensor})
    model, smaller = (types.SimpleNamespace(num_key_value_heads=kv_heads, head_dim=size) for size in (128, 64))
    check_cache(model, dtype, mesh=None)  # elsewhere all are read
    monkeypatch.setattr(cache, "platform_of", lambda mesh: "tpu")
    check_cache(smaller, dtype, mesh)  # as are, by XLA, heads that the kernel has not
    if remedy is None:
        check_cache(model, dtype, mesh)
        return
    with pytest.raises(MeshError, match=f"rollout.cache_dtype 'int8' .* rollout.mesh of tensor={tensor}.*{remedy}"):
        check_cache(model, dtype, mesh)
