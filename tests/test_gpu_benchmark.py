"""gpu.sh runs through on a CPU, says what failed and goes on, and its table compares what is comparable."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import gpu, gpu_table

SCRIPT = pathlib.Path(gpu.__file__).with_suffix(".sh")
INT8 = ("int8_weights", "int8_cache")
H100 = "NVIDIA H100 80GB HBM3"


def run(out, *arguments):
    """The script's end, and the last result of every step."""
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run([SCRIPT, "--out", out, *arguments], env=environment, capture_output=True, text=True)
    file = out / "results.jsonl"
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return done, {result["step"]: result for result in lines}


@pytest.fixture
def runner(tmp_path):
    runner = gpu.Runner(tmp_path / "out", tmp_path, tiny=False, wheels=tmp_path)
    versions = dict(python="3.12", jax="0.11", torch="2.13", no_torch=None, memory=None, missing=["grain"])
    runner.results["machine"] = result("machine", **versions)
    return runner


def result(step, **figures):
    return {"step": step, "card": H100, "status": "measured", "seconds": 1.0, "figures": figures}


def step(program, name="step", **options):
    return gpu.Step(name, options.pop("seconds", 60), ("-c", program), **options)


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path):
    """All but the quickstart's end: a model that has learnt nothing gives RL nothing to learn from, which it says."""
    done, results = run(tmp_path, "--tiny")
    assert done.returncode == 1, done.stderr + (tmp_path / "log.txt").read_text()
    assert results.keys() == {"machine", *(step.name for step in gpu.all_steps(True, tmp_path))}
    quickstart = results.pop("quickstart")
    assert "no update was made" in quickstart["error"]
    assert all(result["figures"] and "CPU" in result["card"] for result in results.values())
    table = (tmp_path / "table.md").read_text()
    assert table in done.stdout
    for what in (
        "decode",
        "prefill",
        "tests",
        "quickstart | **failed**",
        *results.keys() - {"floors", "decode"},
        "a step of decoding, matrices in int8",
    ):
        assert f"\n| {what}" in table
    assert table.count("ours is ") == 9  # every peer's row


@pytest.mark.slow
def test_a_step_that_fails_leaves_the_others(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "broken-1.0-py3-none-any.whl").write_text("no archive")
    done, results = run(tmp_path / "out", "--tiny", "--wheels", wheels, "floors")
    assert done.returncode == 1 and "failed: packages;" in done.stderr
    assert {name: result["status"] for name, result in results.items()} == {
        "packages": "failed",
        "machine": "measured",
        "floors": "measured",
    }
    figures = results["floors"]["figures"]
    assert all(figures[phase]["seconds"] > 0 and figures[phase]["least"] > 0 for phase in ("decode", "prefill"))
    rows = [row.split(" | ") for row in (tmp_path / "out" / "table.md").read_text().splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "| packages",
        "| machine",
        "| decode, a token of every slot",
        "| prefill, a row",
    ]
    assert rows[0][1].startswith("**failed**: ERROR: ") and "no data sheet" in rows[2][1]
    assert "broken" in (tmp_path / "out" / "log.txt").read_text()


def test_names_and_mistakes(tmp_path):
    assert "updates/grpo/torch.compile" in run(tmp_path, "--list")[0].stdout.splitlines()
    done, _ = run(tmp_path, "update")
    assert done.returncode == 2 and "there is no step update" in done.stderr
    assert "benchmarks/gpu.sh [--wheels FOLDER]" in run(tmp_path, "--help")[0].stderr


def test_what_a_step_comes_to(runner, tmp_path):
    right = step("print('a line'); print('{\"a\": 1}')", "right")
    assert runner.run(right)["figures"] == {"a": 1}
    wrong = runner.run(step("print('{}'); raise ValueError('it is\\nbroken')", "wrong"))
    assert wrong["status"] == "failed" and wrong["error"] == "ValueError: it is"
    assert runner.run(step("print('text')", "text"))["status"] == "failed"
    late = runner.run(step("import time; print('{}', flush=True); time.sleep(60)", "late", seconds=1))
    assert late["status"] == "failed" and late["error"] == "it took more than 1 s"
    runner.results["machine"]["figures"]["no_torch"] = "no torch"
    peer = runner.run(step("print('{}')", "peer", torch=True))
    assert peer["status"] == "left out" and peer["error"] == "not measured: no torch" and "figures" not in peer
    runner._end = 0
    assert runner.run(right)["error"] == "no time was left: benchmarks/gpu.sh right"
    assert runner.failed == ["wrong", "text", "late", "right"]
    written = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in written] == ["right", "wrong", "text", "late", "peer", "right"]
    again = gpu.Runner(tmp_path / "out", tmp_path, tiny=False, wheels=tmp_path)
    assert again.results["right"]["status"] == "failed"  # the latest of each
    assert (tmp_path / "out" / "table.md").read_text().count("\n") == 2 + 6  # with the machine's


def test_tests_are_counted():
    output = "tests/a.py::one FAILED\n=== short test summary info ===\nFAILED tests/a.py::one - assert 0\n"
    output += "==== 1 failed, 62 passed, 3 skipped, 2 errors in 7.11s ====\n"
    counts = gpu.count_tests(output)
    assert counts.pop("not_passed") == ["FAILED tests/a.py::one - assert 0"]
    assert counts == {"failed": 1, "passed": 62, "skipped": 3, "error": 2}
    cut = "[gw0] [  1%] PASSED tests/a.py::one\n[gw1] [  2%] SKIPPED tests/a.py::two\ntests/a.py::three"
    assert gpu.count_tests(cut) == {"passed": 1, "skipped": 1, "not_passed": []}


def test_the_table_compares_what_was_measured_on_one_card():
    update = dict(bytes=2**34, device=H100, figures=[[12.0, 1.0], [11.0, 0.5]])
    results = [
        result("model", model_flops=2e14, tolerance=0.02),
        result(
            "floors",
            device=H100,
            bytes_per_second=3e12,
            flops=8e14,
            decode=dict(seconds=0.008, least=13.4e9),
            prefill=dict(seconds=0.005, least=2.4725e12),
        ),
        result("updates/sft/ours", seconds=0.4, **update),
        result("updates/sft/torch.compile", seconds=0.6, **update),
        result("decode", **{f"{name}_{unit}": 0.6 for name in ("ragged", *INT8) for unit in ("ms", "ratio")}),
        result("rollouts/ours", tokens_per_second=900.0, compiles=0, device=H100),
        result("ragged/ours", tokens_per_second=800.0, compiles=0, device=H100),
        result("ragged/kept_cache", tokens_per_second=200.0, device=H100),
        result("rollouts/rerender", tokens_per_second=300.0, device="NVIDIA H200"),
        {**result("rollouts/kept_cache"), "status": "left out", "figures": None, "error": "not measured: no torch"},
    ]
    rows = dict(row.split(" | ")[:2] for row in gpu_table.table(results).splitlines()[2:])
    decode = "8 ms: 1.79 x the floor at the 3 TB/s measured, 2.00 x at the data sheet's 3.35"
    assert rows["| decode, a token of every slot"] == decode
    assert rows["| prefill, a row"].endswith(", 2.00 x at the data sheet's 989")
    assert rows["| updates/sft/ours"] == "0.4 s, 16.00 GiB, 500 TFLOP/s (50.6% of the data sheet's)"
    assert rows["| updates/sft/torch.compile"].endswith("; ours is 1.50 x as fast")
    assert rows["| a step of decoding, matrices in int8"] == "0.6 ms, 0.60 x the time"
    assert rows["| ragged/kept_cache"] == "200.0 tokens/s; ours is 4.00 x as fast"
    assert rows["| rollouts/rerender"] == "300.0 tokens/s"  # on another card
    assert rows["| rollouts/kept_cache"] == "not measured: no torch"
    assert all(row.endswith(f" | {H100} |") for row in gpu_table.table(results).splitlines()[2:])


def test_updates_that_disagree_are_not_compared(runner):
    runner.results |= {
        "model": result("model", tolerance=0.02, model_flops=1e12),
        "updates/sft/ours": result("updates/sft/ours", seconds=1.0, bytes=2**30, device=H100),
    }
    runner.results["updates/sft/ours"]["figures"]["figures"] = [[12.0, 1.0], [11.0, 0.5]]
    figures = {"figures": [[12.1, 1.01], [11.1, 0.9]], "seconds": 2.0, "bytes": 2**30, "device": H100}
    found = runner.run(step(f"print('{json.dumps(figures)}')", "updates/sft/torch"))
    assert found["status"] == "failed" and "0.9" in found["error"]
    table = gpu_table.table(runner.results.values())
    assert "ours is" not in table and "| updates/sft/torch | 2 s, 1.00 GiB, 0.5 TFLOP/s (0.1% " in table


@pytest.mark.parametrize(
    "name, found",
    [
        (H100, (3.35e12, 989e12)),
        ("NVIDIA H200", (4.8e12, 989e12)),
        ("NVIDIA A100-SXM4-80GB", (2.039e12, 312e12)),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA L4", None),
    ],
)
def test_a_card_is_known_by_its_name(name, found):
    assert gpu_table.rates(name) == found
