"""Rollouts of several processes in step: each gives for its queries what one process gives."""

import json
import textwrap

import numpy as np
import pytest

from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.rollout import Limits, Policy
from tests import processes
from tests.rollout.test_policy import Eager, _with

SCRIPT = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", DEVICES)
from pixel_reasoner_jax.parallel import all_gather, all_gather_json, is_main, join, make_mesh, local_parts
directory, out, _, coordinator, _, processes, _, process = sys.argv[1:]
join(coordinator, int(processes), int(process))
import numpy as np
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.rollout import Limits, Policy
from tests.rollout.test_policy import Eager, _with

me, count = jax.process_index(), jax.process_count()
assert all_gather(np.array([me, 7])).tolist() == [[number, 7] for number in range(count)]
assert all_gather_json({"a": "x" * me}) == [{"a": "x" * number} for number in range(count)]
assert is_main() == (me == 0)
mesh = make_mesh(MESH)
processor = Processor.from_pretrained(
    directory, Budgets(image=(16, 20), crop=(4, 12), frame=(4, 12), video=(4, 8), video_frames=5)
)
processor = _with(processor, stop_tokens=tuple({*processor.stop_tokens, *range(260, 330)}))
policy = Policy(
    Qwen2_5_VL.from_pretrained(directory, mesh=mesh),
    processor,
    registry=Eager(default_registry()._operations),
    limits=Limits(2, max_response_tokens=100, max_length=288),
    slots=8,
    decode_steps=8,
    rollout_mesh=ROLLOUTS,
)
assert local_parts(policy.runtime.mesh) == (me,)
source = PixelSearch(5, "rl")
# Shares of different sizes: who is done first goes on in step.
queries = [source[index].query() for index in range(5) if index % count == me]
answers = {}
with policy.stream(queries, 2, seed=4) as stream:
    for number, trajectory in stream:
        answers[f"{trajectory.query_id}/{trajectory.sample}"] = [
            trajectory.tokens.tolist(), trajectory.logprobs.tolist(), len(trajectory.operations)
        ]
with open(f"{out}/{me}.json", "w") as file:
    json.dump(answers, file)
"""


@pytest.mark.slow  # processes that train as one, in the default tests, answer as one
@pytest.mark.parametrize(
    "count, devices, mesh, rollouts",
    [
        (2, 1, dict(data=-1), {}),
        (4, 1, dict(data=-1), {}),
        (2, 2, dict(fsdp=-1), dict(tensor=2)),  # the devices of each process share layers in rollouts alone
    ],
)
def test_processes_answer_as_one(tmp_path, world, queries, count, devices, mesh, rollouts):
    model, processor = world
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    script = tmp_path / "script.py"
    settings = dict(DEVICES=devices, MESH=mesh, ROLLOUTS=rollouts)
    script.write_text("\n".join(f"{name} = {value}" for name, value in settings.items()) + textwrap.dedent(SCRIPT))
    processes.run([str(script), str(tmp_path), str(tmp_path)], count)
    got = {}
    for number in range(count):
        got |= json.loads((tmp_path / f"{number}.json").read_text())
    processor = _with(processor, stop_tokens=tuple({*processor.stop_tokens, *range(260, 330)}))
    limits = Limits(2, max_response_tokens=100, max_length=288)
    policy = Policy(model, processor, registry=Eager(default_registry()._operations), limits=limits, slots=8)
    operations = 0
    for group in policy.rollout(queries[:5], samples=2, seed=4):
        for trajectory in group:
            tokens, logprobs, called = got.pop(f"{trajectory.query_id}/{trajectory.sample}")
            assert trajectory.tokens.tolist() == tokens
            np.testing.assert_allclose(trajectory.logprobs, logprobs, atol=1e-5)
            assert len(trajectory.operations) == called
            operations += called
    assert not got and operations > 5
