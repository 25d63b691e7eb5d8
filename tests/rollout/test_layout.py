"""Parameters as rollouts take them: the same values, in fewer bytes and other places, made once."""

from __future__ import annotations

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.parallel import MeshError
from pixel_reasoner_jax.parallel import mesh as mesh_module
from pixel_reasoner_jax.rollout.layout import Layout, rollout_mesh
from tests import processes
from tests.rollout.zooming_policy import TURNS, assert_same, zooming

MESHES = """
import dataclasses, json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.parallel import make_mesh, mesh, param_shardings
from pixel_reasoner_jax.rollout.layout import Layout

in_order = mesh._arrange
config = dataclasses.replace(Config.preset("tiny"), num_key_value_heads=4, tie_word_embeddings=False)
single = Qwen2_5_VL.create(config, 3, dtype="bfloat16")
graph, params = nnx.split(single)
values = jax.tree.map(np.asarray, params)
for own, rollouts, reorders in json.loads(sys.argv[1]):
    model_mesh = make_mesh(own)
    model = nnx.merge(graph, jax.device_put(params, param_shardings(params, model_mesh)))
    model.compute_on(model_mesh)
    # As where the links between chips want another order.
    mesh._arrange = (lambda sizes, devices: in_order(sizes, devices[::-1])) if reorders else in_order
    layout = Layout(*nnx.split(model), rollouts)
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
    for (path, old), new in zip(nnx.to_flat_state(values), jax.tree.leaves(moved), strict=True):
        wanted = old.get_raw_value() if path[-1] == "scale" else old.get_raw_value().astype(jnp.bfloat16)
        assert new.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(new), wanted)
    assert (layout.gather is None) == (layout.mesh == model_mesh)
print("equal")
"""


SPREAD_OUT, REPLICAS = dict(fsdp=-1), dict(data=-1)
IN_PAIRS, IN_FOURS = dict(data=2, fsdp=-1, tensor=2), dict(fsdp=-1, tensor=4)


@pytest.mark.parametrize(
    "cases",
    [
        [(SPREAD_OUT, dict(tensor=4), True)],
        pytest.param(
            [
                (SPREAD_OUT, {}, False),
                (IN_PAIRS, {}, False),
                (IN_PAIRS, dict(tensor=2, fsdp=4), False),
                (IN_PAIRS, dict(tensor=4, fsdp=2), True),
                (SPREAD_OUT, dict(tensor=4), False),
                (IN_FOURS, dict(tensor=2), False),
                (REPLICAS, {}, False),
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


def test_nothing_is_copied_that_is_there_already():
    model = Qwen2_5_VL.create(Config.preset("tiny"), 3)
    graph, params = nnx.split(model)
    layout = Layout(graph, params, {})
    assert layout.prepare is None and layout.gather is None
    assert all(one is other for one, other in zip(*map(jax.tree.leaves, (params, layout(params))), strict=True))
    graph, params = nnx.split(Qwen2_5_VL.create(Config.preset("tiny"), 3, param_dtype="bfloat16"))
    assert Layout(graph, params, {}).prepare is None  # in float32 they would be no fewer bytes


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
