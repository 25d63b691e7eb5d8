"""The quickstart: every stage in miniature, and (slow) what it promises to show."""

import json
import re

import pytest

from pixel_reasoner_jax.commands import quickstart
from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.evaluation.compare import compare
from pixel_reasoner_jax.rollout.settings import load_policy
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from tests.training.conftest import let_luck_pay

STAGES = ("prior", "warm_start", "rl_without_curiosity", "rl_with_curiosity")


def last_line(capsys) -> dict:
    captured = capsys.readouterr()
    assert "begins anew" not in captured.err  # which is for those who asked to resume
    output = captured.out.splitlines()
    (report,) = [line for line in output if line.startswith("report: ")]
    assert report.endswith("report.html")
    return json.loads(output[-1])


def test_every_stage_runs_and_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    let_luck_pay(monkeypatch)  # a run that makes no update is an error
    config = load_config("quickstart")
    config.workdir = str(tmp_path / "run")
    config.pretraining.update(dict(lessons=16, train=dict(batch_size=8, steps=2, micro_batch_rows=8)))
    config.warm_start.update(dict(trajectories=8, lessons=4, train=dict(batch_size=8, steps=2, micro_batch_rows=4)))
    config.rl.update(dict(queries=4, train=dict(batch_size=8, steps=2, micro_batch_rows=4)))
    config.rl.rollout.update(dict(samples=4, slots=8))
    config.rl.grpo.queries_per_episode = 2
    config.evaluation.update(dict(queries=4, samples=2, slots=8))
    returned = quickstart.run(config)
    figures = last_line(capsys)
    assert tuple(figures) == STAGES and figures == returned
    assert all({"accuracy", "rapr"} <= row.keys() for row in figures.values())
    compared = compare([tmp_path / "run" / "evaluation" / stage for stage in STAGES[2:]]).figures
    found = compared["benchmarks"]["pixel_search"]
    assert {stage: part["score"] for stage, part in found["results"].items()} == {
        stage: figures[stage]["accuracy"] for stage in STAGES[2:]
    }
    assert found["results"]["rl_with_curiosity"]["interval"] == figures["rl_with_curiosity"]["interval"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/") > 4 and "RL with curiosity" in page
    settings = load_policy(tmp_path / "run" / "rl_with_curiosity" / "model")
    assert settings.limits.max_response_tokens == config.rl.rollout.max_response_tokens
    curiosity = json.loads((tmp_path / "run" / "rl_without_curiosity" / "config.json").read_text())["curiosity"]
    assert curiosity["alpha"] == 0.0

    trained = tmp_path / "run" / "rl_with_curiosity" / "model" / "model.safetensors"
    written = trained.stat().st_mtime_ns
    assert quickstart.run(config) == returned  # nothing is trained again
    assert trained.stat().st_mtime_ns == written
    kept = tmp_path / "run" / "evaluation" / "rl_with_curiosity"
    lines = [json.loads(line) for line in (kept / "trajectories.jsonl").read_text().splitlines()]
    assert sorted((line["id"], line["sample"]) for line in lines) == [(str(n), one) for n in range(4) for one in (0, 1)]
    assert any((kept / "images").iterdir())  # for `view`
    found = "found in .*: pretraining, rl_with_curiosity, rl_without_curiosity, warm_start; remove it"
    assert re.search(found, capsys.readouterr().err)
    config.seed = 1
    with pytest.raises(ConfigError, match="other settings.*--config.workdir"):
        quickstart.run(config)


def test_without_curiosity_no_episode_has_a_bonus():
    config = load_config("quickstart", [("rl.curiosity.multipliers", "dual"), ("rl.curiosity.alpha_bounds", "(1, 2)")])
    curiosity = quickstart.without_curiosity(config).rl.curiosity
    state = CuriosityState.begin(curiosity)
    assert state.alpha == 0 and state.after(0.0, 0.0, curiosity) == state
    assert config.rl.curiosity.multipliers == "dual"  # the other run's are as they were


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_curiosity_escapes_the_learning_trap(seed, tmp_path):
    config = load_config("quickstart")
    config.seed, config.workdir = seed, str(tmp_path / "run")
    figures = quickstart.run(config)
    assert figures["rl_with_curiosity"]["accuracy"] >= 0.8
    assert figures["rl_with_curiosity"]["rapr"] >= 0.8
    compared = compare([tmp_path / "run" / "evaluation" / stage for stage in STAGES[2:]]).figures
    change = compared["benchmarks"]["pixel_search"]["differences"]["rl_with_curiosity"]
    assert change["interval"][0] > 0.2 and change["p"] < 0.001
    assert figures["rl_without_curiosity"]["rapr"] <= 0.1
    assert abs(figures["rl_without_curiosity"]["accuracy"] - figures["prior"]["accuracy"]) <= 0.05
