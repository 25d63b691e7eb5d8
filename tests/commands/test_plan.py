"""`pixel-reasoner plan`, from the configs that come with the package to a table and its JSON."""

import json
import os
import subprocess
import sys

import pytest

from pixel_reasoner_jax.commands.plan import load_experiment
from pixel_reasoner_jax.config import ConfigError

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
