"""`pixel-reasoner plan`, from the configs that come with the package to a table and its JSON."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from pixel_reasoner_jax.commands import options
from pixel_reasoner_jax.commands import plan as module
from pixel_reasoner_jax.commands.plan import load_experiment
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.plan import in_flight
from pixel_reasoner_jax.plan.chips import Chip, Topology
from pixel_reasoner_jax.plan.measure import Phase
from pixel_reasoner_jax.plan.rollout_costs import DecodingStep
from pixel_reasoner_jax.plan.work import Work
from pixel_reasoner_jax.rollout.capacity import CapacityError

PHASES = ["vision_encode", "prefill", "extend", "decode", "sft_update", "grpo_update"]


def plan(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pixel_reasoner_jax.commands.cli", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    "chips, names",
    [
        ("cpu:8", [PHASES[1], PHASES[3], PHASES[5]]),
        ("v5p:2x2x1", PHASES[:2]),
        ("v6e:2x4", PHASES[3:4]),
        pytest.param("cpu:8", PHASES, marks=pytest.mark.slow),
        pytest.param("v5p:2x2x1", PHASES, marks=pytest.mark.slow),
        pytest.param("v6e:2x4", PHASES, marks=pytest.mark.slow),
    ],
)
def test_tiny_on(chips, names, request):
    if not chips.startswith("cpu"):
        request.getfixturevalue("libtpu")
    rl = {
        "train.micro_batch_rows": 1,
        "train.batch_size": 8,
        "rollout.slots": 16,
        "rollout.samples": 2,
        "grpo.queries_per_episode": 8,
    }
    small = (f"--config.rl.{key}={value}" for key, value in rl.items())
    some = () if names == PHASES else ("--phases", ",".join(names))
    result = plan("--config", "quickstart", "--topology", chips, "--json", *some, *small)
    assert result.returncode == 0, result.stderr[-3000:]
    *table, last = result.stdout.splitlines()
    phases = json.loads(last)
    assert [phase["phase"] for phase in phases] == names
    for phase in phases:
        assert phase["fits"] and 0 < phase["bytes_per_chip"] <= phase["bytes_available"], phase
        assert phase["tokens"] > 0 and phase["flops"] > 0 and 0.9 < phase["matmul_share"] <= 1, phase
        assert phase["seconds_floor"] > 0 and phase["bound"] in ("arithmetic", "memory", "interconnect"), phase
        assert any(line.startswith(phase["phase"]) for line in table)
    if "grpo_update" in names:
        assert phases[-1]["interconnect_bytes"] > 0
    if names == PHASES:
        assert phases[-1]["largest"] == {"micro_batch_rows": 8 // int(phases[0]["mesh"]["data"]), "slots": 16}
        assert "largest rollout.slots that fits: 16, as many as an episode has responses" in table


@pytest.mark.slow
@pytest.mark.parametrize("chips", ["cpu:8", "v5p:2x2x1"])
def test_an_episode_on(chips, request):
    if not chips.startswith("cpu"):
        request.getfixturevalue("libtpu")
    rl = {"train.batch_size": 8, "train.micro_batch_rows": 1, "rollout.samples": 2, "grpo.queries_per_episode": 8}
    small = (f"--config.rl.{key}={value}" for key, value in rl.items())
    names = ("--phases", ",".join(PHASES))
    result = plan("--config", "quickstart", "--topology", chips, "--episode", "--json", *names, *small)
    assert result.returncode == 0, result.stderr[-3000:]
    figures = json.loads(result.stdout.splitlines()[-1])
    assert [phase["phase"] for phase in figures["phases"]] == PHASES
    planned = figures["episode"]
    assert planned["in_flight"] == planned["responses"] == 16 and planned["waits"] == 0
    for name in ("encode", "prefill", "decode", "update", "checkpoint"):
        assert planned[f"{name}_seconds"] > 0 and name in planned["bounds"], name
    assert planned["hours"] > 0 and 0 < planned["idle_share"] < 1


@pytest.fixture
def fabricated(monkeypatch):
    """`plan` of the quickstart, with phases that are measured at once, and less memory for decoding if asked."""
    chip = Chip(flops=1e9, memory=2**30, memory_rate=1e9, link_rate=1e9)
    works = (Work(1e6, 1e6), Work(0.0, 1e5))

    def measured(programs, name, topology):
        return Phase(name, 1, True, 2**28, 2**30, 1.0, 1.0, 1.0, 0.0, 1.0, "memory", 1.0, works=works)

    monkeypatch.setattr(module.jax.config, "update", lambda *_: None)  # nothing that holds for later tests
    monkeypatch.setattr(module, "topology", lambda name: Topology(name, module.jax.devices()[:1], chip))
    monkeypatch.setattr(module, "measure", measured)

    def run(decoding: int, *more: str, slots: int = 128) -> None:
        step = DecodingStep(Work(1e5, 1e5), decoding, "")
        monkeypatch.setattr(in_flight, "measure_step", lambda *_: step)
        parser = argparse.ArgumentParser()
        options.plan(parser)
        phases = ",".join(PHASES)
        arguments = ["--config", "quickstart", "--topology", "one", "--phases", phases, *more]
        settings = {"rl.grpo.queries_per_episode": "8", "rl.rollout.slots": str(slots)}
        module.run(parser.parse_args(arguments), settings.items())

    return run


def test_an_episode_is_shown_beside_the_phases(fabricated, capsys):
    fabricated(2**28, "--json", "--episode")
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert list(figures) == ["phases", "episode"] and [phase["phase"] for phase in figures["phases"]] == PHASES
    planned = figures["episode"]
    assert planned["fits"] and planned["in_flight"] == 64 and planned["responses"] == 64 and planned["episodes"] == 110
    assert planned["rollout_seconds"] > planned["decode_seconds"] > 0 < planned["update_seconds"]
    shown = "\n".join(table)
    for name in ("encode images", "prefill", "decode", "updates", "checkpoint", "all"):
        assert any(line.startswith(name) and " s" not in line for line in table), name
    assert f"{planned['rollout_tokens_per_second']:,.0f} tokens/s" in shown and "in flight: 64 at most" in shown
    assert "run: 110 episodes (config.train.steps)" in shown
    fabricated(2**28, "--json")
    *same, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == figures["phases"] and same == table[: len(same)]


def test_memory_decides_on_slots_before_the_phases_are_planned(fabricated, capsys):
    """All phases are those of the run that it decides on: its cache is in memory in every one of the rollout."""
    fabricated(2**28, "--json", "--episode", slots=0)
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert "largest rollout.slots that fits: 64, which it is, as memory allows" in table
    rollout, updates = figures["phases"][:3], figures["phases"][4:]
    assert {phase["bytes_per_chip"] for phase in updates} == {2**28}
    assert all(phase["bytes_per_chip"] > 2**28 and phase["largest"] == {"slots": 64} for phase in rollout)
    assert figures["episode"]["slots"] == 64
    with pytest.raises(CapacityError, match="need 5"):  # the phases are shown all the same
        fabricated(2**30, "--json", slots=0)
    assert [phase["phase"] for phase in json.loads(capsys.readouterr().out.splitlines()[-1])] == PHASES


def test_an_episode_that_does_not_fit_is_an_error(fabricated, capsys):
    with pytest.raises(CapacityError, match="two responses of 192 tokens need 5"):
        fabricated(2**30, "--json", "--episode")
    *table, last = capsys.readouterr().out.splitlines()
    planned = json.loads(last)["episode"]
    assert planned["fits"] is False and "need 5" in planned["reason"] and len(table) > len(PHASES)


EACH = """
import sys
from pixel_reasoner_jax.commands import cli
for line in sys.stdin:
    print(cli.main(["plan", *line.split()]), file=sys.stderr)
"""


def test_mistakes_are_errors_of_one_line():
    mistakes = {
        "rl_qwen2_5_vl_7b --config.mesh.fsdp=3": "fsdp could be",
        "sft_qwen2_5_vl_7b --config.train.batch_size=12": "config.train.batch_size is 12; with 8 shards",
        "rl_qwen2_5_vl_7b --config.rollout.mesh.tensor=3": "rollout.mesh data=-1 x fsdp=1 x tensor=3 takes a multiple",
        "rl_qwen2_5_vl_7b --config.train.row_length=8192": "config.rollout.max_length is 16384",
        "sft_qwen2_5_vl_7b --episode": "--episode plans a run of rl, and this config is one of sft",
        "quickstart --lengths runs/mine": "--lengths are those of an episode: add --episode",
        "quickstart --episode --phases decode": "--episode needs the phase vision_encode: name it in --phases too",
        "quickstart --episode --lengths nowhere": "--lengths nowhere: no trajectories are stored in its folder samples",
    }
    lines = "".join(f"--topology cpu:8 --config {options}\n" for options in mistakes)
    result = subprocess.run([sys.executable, "-c", EACH], input=lines, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0 and result.stdout == "", result.stderr[-3000:]
    told = result.stderr.splitlines()
    assert told[1::2] == ["2"] * len(mistakes)  # the exit status of each
    for line, says in zip(told[::2], mistakes.values(), strict=True):
        assert says in line
    with pytest.raises(ConfigError, match="unknown key config.mesh.expert"):
        load_experiment("rl_qwen2_5_vl_7b", [("mesh.expert", "3")])


def test_sizes_come_from_the_model_or_from_its_name(tmp_path):
    _, model = load_experiment("rl_qwen2_5_vl_7b")
    assert model.num_hidden_layers == 28
    _, model = load_experiment("rl_qwen2_5_vl_7b", preset="72b")
    assert model.num_hidden_layers == 80
    (tmp_path / "config.json").write_text(json.dumps(model.to_hf()))
    _, read = load_experiment("sft_qwen2_5_vl_7b", [("model.directory", str(tmp_path))])
    assert read == model
    with pytest.raises(ConfigError, match="--preset, one of 3b"):
        load_experiment("sft_qwen2_5_vl_7b", [("model.directory", "checkpoints/mine")])


def test_the_quickstart_is_planned_as_it_runs():
    config, model = load_experiment("quickstart", [("rl.rollout.slots", "16")])
    assert config.rollout.slots == 16 and config.mesh.data == -1 and model.num_hidden_layers == 2
    assert os.fspath(config.workdir) and config.processor.image == (16, 20)
