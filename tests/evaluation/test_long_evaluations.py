"""Evaluations that are killed by the system, that are long, and that several processes share."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from pixel_reasoner_jax.evaluation.records import read_records, read_results
from pixel_reasoner_jax.evaluation.trajectories import read_trajectories
from pixel_reasoner_jax.rollout import Limits
from pixel_reasoner_jax.rollout.settings import PolicySettings
from tests import processes
from tests.evaluation.forms import write_image, write_json
from tests.evaluation.test_benchmark_run import without_times, write_tallyqa

pytestmark = pytest.mark.slow

KILLED = """
    import sys, time
    from tests.evaluation.scripted import ScriptedPolicy
    from tests.evaluation.test_benchmark_run import asked, right, run

    def answer(query, sample):
        time.sleep(0.004)
        return right(query) if (int(query["question"][1:]) + sample) % 3 else "no"

    data, out = sys.argv[1:]
    print("ready", flush=True)
    run(ScriptedPolicy(answer), out, asked(data, samples=2, sampling__temperature=1))
"""


def environment():
    return os.environ | {"PYTHONPATH": str(processes.REPOSITORY), "JAX_PLATFORMS": "cpu"}


def test_killed_by_the_system_it_goes_on(tmp_path):
    """Killed at random moments, the evaluation comes to the figures that it has unbroken."""
    data, rng, kills = write_tallyqa(tmp_path / "data", 400, broken=(11, 50)), random.Random(1), 0

    def start(out):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(data), str(tmp_path / out)]
        return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE)

    assert start("whole").wait(300) == 0
    while True:
        process = start("out")
        process.stdout.readline()
        try:
            assert process.wait(rng.uniform(0.2, 1 + kills / 2)) == 0  # longer each time, on a busy machine too
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills > 1
    whole, out = (without_times(read_results(tmp_path / name)) for name in ("whole", "out"))
    assert out == whole
    keys = [record.key for record in read_records(tmp_path / "out")]
    assert len(keys) == len(set(keys)) == 798
    assert len(read_trajectories(tmp_path / "out", keys)) == 796


MEMORY = """
    import collections, sys
    from tests.evaluation.scripted import ScriptedPolicy
    from tests.evaluation.test_benchmark_run import MODEL, asked, first
    from pixel_reasoner_jax.evaluation.benchmark_run import evaluate_benchmarks

    def resident():
        return int(open("/proc/self/statm").read().split()[1])

    def progress(benchmark, mode, done, total):
        if done == total // 10:
            seen.append(resident())

    seen = []
    policy = ScriptedPolicy(first(5000))
    policy.asked = collections.deque(maxlen=1)  # what it would remember of its queries is not the evaluation's
    evaluate_benchmarks([asked(sys.argv[1])], lambda protocol, mode: policy, sys.argv[2], MODEL, progress)
    print(*seen, resident())
"""


def test_memory_does_not_grow_with_what_was_answered(tmp_path):
    rows = []
    for n in range(20_000):
        rows.append({"image": f"{n % 200}.png", "question": f"q{n}", "answer": n % 16, "image_id": n, "question_id": n})
        if n < 200:
            write_image(tmp_path / "data" / f"{n}.png", n)
    write_json(tmp_path / "data" / "test.json", rows)
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "data"), str(tmp_path / "out")]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    tenth, end = map(int, result.stdout.split())
    assert end < 1.05 * tenth
    assert read_results(tmp_path / "out")["benchmarks"]["tallyqa"]["score"] == 5000 / 20_000


@pytest.fixture
def model_directory(world, tmp_path):
    model, processor = world
    directory = tmp_path / "model"
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    PolicySettings(limits=Limits(2, max_response_tokens=60)).save(directory)
    return directory


def evaluate(model, out, *given, count=None):
    command = ["-m", "pixel_reasoner_jax.commands.cli", "evaluate", "--model", str(model), "--out", str(out)]
    command += ["--on", "pixel_search:heldout:7", "--max-length", "288", *given]
    if count:
        processes.run(command, count)
    else:
        subprocess.run([sys.executable, *command], env=environment(), check=True, capture_output=True)
    return read_results(out)


def test_figures_do_not_depend_on_slots_or_processes(model_directory, tmp_path):
    """At temperature 0, and with samples that are drawn: every token is the same, in two processes and in one."""
    for name, given in (("greedy", ["--mode", "both"]), ("drawn", ["--samples", "2", "--temperature", "1"])):
        found = {
            "one": evaluate(model_directory, tmp_path / name / "one", "--slots", "3", *given),
            "slots": evaluate(model_directory, tmp_path / name / "slots", "--slots", "16", *given),
            "two": evaluate(model_directory, tmp_path / name / "two", "--slots", "4", *given, count=2),
        }
        keys = [record.key for record in read_records(tmp_path / name / "one")]
        assert len(keys) == 14
        tokens = {}
        for run, results in found.items():
            assert without_times(results) == without_times(found["one"])
            responses = read_trajectories(tmp_path / name / run, keys)
            tokens[run] = [responses[key].tokens.tolist() for key in keys]
            for key, response in responses.items():
                assert response.logprobs[response.source == 1].all(), key
        assert tokens["one"] == tokens["slots"] == tokens["two"]


def test_a_mesh_of_devices_answers_as_one_device(model_directory, tmp_path):
    one = evaluate(model_directory, tmp_path / "one")
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    command = ["-m", "pixel_reasoner_jax.commands.cli", "evaluate", "--model", str(model_directory)]
    command += ["--on", "pixel_search:heldout:7", "--max-length", "288", "--out", str(tmp_path / "mesh")]
    command += ["--mesh.data", "1", "--mesh.fsdp", "2"]
    subprocess.run([sys.executable, *command], env=environment() | {"XLA_FLAGS": flags}, check=True)
    assert without_times(read_results(tmp_path / "mesh")) == without_times(one)
    line = json.dumps(dataclasses.asdict(next(read_records(tmp_path / "mesh"))))
    assert "x" in line and np.isfinite(one["benchmarks"]["pixel_search"]["tokens"])
