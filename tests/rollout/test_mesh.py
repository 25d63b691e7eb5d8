"""A rollout on a mesh of eight devices gives what one device gives."""

import json

import pytest

from tests import processes

SCRIPT = """
import json, sys
import jax
import numpy as np
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.parallel import make_mesh, local_parts, parts
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings, layout
from tests.rollout.test_policy import Eager, _with

directory, rollouts, weights, cache_dtype = sys.argv[1], *json.loads(sys.argv[2])
assert len(jax.devices()) == 8
mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
count = 8 // rollouts.get("tensor", 2)
processor = Processor.from_pretrained(
    directory, Budgets(image=(16, 20), crop=(4, 12), frame=(4, 12), video=(4, 8), video_frames=5)
)
processor = _with(processor, stop_tokens=tuple({*processor.stop_tokens, *range(260, 330)}))
if weights:  # the order of axes in memory that TPUs have
    layout.ORDERED = ("cpu",)
source = PixelSearch(5, "rl")
queries = [source[index].query() for index in range(5)]
later = SamplingSettings(0.9, top_p=0.95, top_k=200, repetition_penalty=1.05)
sampling = SamplingSettings(1.0, repetition_penalty=1.1, later=later)
answers = []
for placed in (None, mesh):
    model = Qwen2_5_VL.from_pretrained(directory, mesh=placed)
    policy = Policy(
        model,
        processor,
        registry=Eager(default_registry()._operations),
        limits=Limits(2, max_response_tokens=80, max_length=320),
        slots=12,
        decode_steps=8,
        rollout_mesh=rollouts if placed else {},
        weights=weights,
        cache_dtype=cache_dtype,
    )
    if placed is not None:
        assert model.config.vocab_size % mesh.shape["tensor"] == 0  # so that it could be divided, penalties too
        assert parts(policy.runtime.mesh) == count and local_parts(policy.runtime.mesh) == tuple(range(count))
        policy.warmup(sampling=sampling)
        compiles = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, *_, **__: compiles.append(name) if "backend_compile" in name else None
        )
    answers.append(policy.rollout(queries, samples=2, seed=3, sampling=sampling))
    if placed is not None:
        assert not compiles, compiles
        slots = policy.runtime._shapes.slots
        assert slots == {4: 3, 8: 2}[count], slots
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        policy.params = jax.device_put(policy.params, everywhere)  # by hand, with another sharding than the model's
        compiles.clear()
        [again] = policy.rollout(queries[:1], samples=2, seed=3, sampling=sampling)
        assert not compiles, compiles
        assert [t.tokens.tolist() for t in again] == [t.tokens.tolist() for t in answers[-1][0]]
for one, other in zip(*answers, strict=True):
    for a, b in zip(one, other, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist(), (a.query_id, a.sample)
        # A key between two steps of int8 may become either.
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-2 if cache_dtype else 1e-4)
        assert len(a.operations) == len(b.operations)
assert sum(len(t.operations) for group in answers[0] for t in group) > 10
print("equal")
"""


@pytest.mark.parametrize(
    "rollouts, weights, cache_dtype",
    [
        ({}, None, None),
        pytest.param(dict(tensor=1), None, None, marks=pytest.mark.slow),
        pytest.param(dict(fsdp=4), None, None, marks=pytest.mark.slow),
        pytest.param(dict(tensor=2), "int8", None, marks=pytest.mark.slow),
        pytest.param({}, None, "int8", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_answer_as_one(tmp_path, world, rollouts, weights, cache_dtype):
    """On the model's mesh but for fsdp, with layers divided otherwise, and with parameters gathered in every step."""
    model, processor = world
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    processes.on_devices(8, SCRIPT, tmp_path, json.dumps([rollouts, weights, cache_dtype]))
