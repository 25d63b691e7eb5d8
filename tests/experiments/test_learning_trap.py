"""The experiment of the learning trap: arms end to end, what is left when it is killed, results, aims and documents."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import learning_trap as trap
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.training import rl_episode
from tests.conftest import REPOSITORY
from tests.training.conftest import let_luck_pay

KEYS = {"seed", "accuracy", "rapr", "prior", "planned_updates", "made_updates", "queries"}


def run_quick(out, *arms) -> int:
    return trap.main(["--out", str(out), "--quick", "--seeds", "3", "--arms", *arms])


def undocumented(metrics: set[str]) -> list[str]:
    """The metrics of `rl` that docs/rl.md does not name."""
    page = (REPOSITORY / "docs" / "rl.md").read_text()
    families = {"errors_": "errors_KIND", "seconds_": "seconds_PHASE", "alarm_": "alarm_NAME"}
    shown = {
        name: next((known for family, known in families.items() if name.startswith(family)), name) for name in metrics
    }
    return [name for name, text in shown.items() if f"`{text}`" not in page]


def test_arms_run_and_go_on(start, tmp_path, monkeypatch, capsys):
    """From a random model: how it is trained before is the quickstart's test, and the slow one's below."""
    monkeypatch.setattr(trap, "start_model", lambda *arguments: start / "model")
    let_luck_pay(monkeypatch)
    assert run_quick(tmp_path, "curiosity") == 0
    lucky = rl_episode.collect
    monkeypatch.setattr(rl_episode, "collect", lambda *arguments: lucky(*arguments)._replace(correct=np.zeros((2, 4))))
    assert run_quick(tmp_path, "no_curiosity") == 0  # nothing pays: there is no update
    output = capsys.readouterr()
    assert "no_curiosity, seed 3: evaluated at its start, since no update was made" in output.err
    found = json.loads((tmp_path / "results.json").read_text())
    assert json.loads(output.out.splitlines()[-1]) == found
    assert list(found) == ["no_curiosity", "curiosity"]  # in the order of the arms
    for arm in found.values():
        assert arm.keys() == KEYS | {"accuracy_interval", "rapr_interval"}
        assert all(len(arm[key]) == 1 for key in KEYS) and arm["accuracy_interval"] is None
    assert [found[name]["made_updates"] for name in found] == [[0], [2]]
    assert found["curiosity"]["planned_updates"] == [2] and found["curiosity"]["queries"] == [4]
    assert "<svg" in (tmp_path / "figures" / "main.svg").read_text()

    arm = tmp_path / "seed-3" / "arms" / "curiosity" / "run"
    assert not undocumented({name for line in read_metrics(arm) for name in line})
    model = arm / "model" / "model.safetensors"
    written = model.stat().st_mtime_ns
    assert run_quick(tmp_path, "curiosity", "no_curiosity") == 0
    assert model.stat().st_mtime_ns == written
    assert json.loads((tmp_path / "results.json").read_text()) == found
    monkeypatch.setitem(trap.ALL_ARMS, "curiosity", trap.Arm("another", {"rl.curiosity.alpha": 3.0}))
    assert run_quick(tmp_path, "curiosity") == 2
    assert "holds an experiment with other settings (its config.rl.curiosity.alpha is 1.0)" in capsys.readouterr().err


def test_every_arm_has_valid_settings():
    for name, arm in trap.ALL_ARMS.items():
        config, quick = (trap.config_of(arm, 1, quick) for quick in (False, True))
        assert config.seed == 1 and config.evaluation.queries == 256 and quick.evaluation.queries == 4, name
        updates = config.rl.grpo.queries_per_episode * config.rl.rollout.samples / config.rl.train.batch_size
        assert updates == (4 if name.startswith("four_updates") else 1), name
        small = quick.rl.grpo.queries_per_episode * quick.rl.rollout.samples / quick.rl.train.batch_size
        assert small == updates, name


def rows(seeds, accuracy, rapr, made=110) -> list[dict]:
    """What came of an arm, where every seed has the prior 0.45."""
    values = zip(seeds, accuracy, rapr, strict=True)
    same = {"prior": 0.45, "planned_updates": 110, "made_updates": made, "queries": 1760, "episodes": []}
    return [{"seed": seed, "accuracy": a, "rapr": r, **same} for seed, a, r in values]


def outcomes() -> trap.Outcomes:
    episodes = [{"step": step, "rapr": step / 10, "accuracy": 0.5, "updates": 1} for step in (1, 2, 3)]
    found = {
        "no_curiosity": rows((0, 1), (0.44, 0.46), (0.0, 0.01)),
        "curiosity": rows((0, 1), (0.90, 0.92), (0.95, 0.97)),
        "dual": rows((0, 1), (0.90, 0.50), (0.95, 0.40)),
        "four_updates": rows((0, 1), (0.6, 0.6), (0.9, 0.9), made=60),
        "four_updates_ssr": rows((0, 1), (0.7, 0.7), (0.9, 0.9), made=108),
    }
    for arm in found.values():
        arm[0]["episodes"] = episodes
    return found


def test_results_have_lists_and_intervals_over_seeds():
    found = trap.results(outcomes())["curiosity"]
    assert found["accuracy"] == [0.90, 0.92] and found["seed"] == [0, 1]
    assert found["accuracy_interval"] == pytest.approx([0.91 - 0.127062, 0.91 + 0.127062], abs=1e-6)
    assert "episodes" not in found


def test_aims_are_said_to_be_met_or_not():
    held = [held for _, held, _ in trap.aims(trap.results(outcomes()))]
    assert held == [True, True, False, True]  # the dual arm forks
    found = outcomes()
    found["no_curiosity"] = rows((0, 1), (0.39, 0.39), (0.0, 0.01))  # all are far from the prior
    found["four_updates_ssr"] = rows((0, 1), (0.5, 0.5), (0.9, 0.9), made=108)  # and SSR costs accuracy
    assert [held for _, held, _ in trap.aims(trap.results(found))] == [False, True, False, False]
    assert trap.aims({}) == []
    one = {name: rows[:1] for name, rows in outcomes().items()}
    assert [held for _, held, _ in trap.aims(trap.results(one))] == [True, None, None, True]


def test_documents_are_filled_by_what_is_finished(tmp_path):
    for name in ("learning_trap.md", "rl.md"):
        (tmp_path / name).write_text((REPOSITORY / "docs" / name).read_text())
    for _ in range(2):
        trap.write_docs(outcomes(), tmp_path)
    page = (tmp_path / "learning_trap.md").read_text()
    assert page.count("| alpha 1, H 0.5 | 0, 1 | 0.91 [0.78, 1.04] |") == 1
    assert "has not been made yet" not in page and page.count("| no |") == 1
    assert page.count("(learning_trap/replay.svg)") == 1 and (tmp_path / "learning_trap" / "replay.svg").exists()
    assert (tmp_path / "rl.md").read_text().count("(learning_trap/health.svg)") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arms", "curiousity"], "invalid choice: 'curiousity'"),
        (["--seeds", "0;1"], "invalid int value: '0;1'"),
        (["--seeds", "0", "-1"], "a seed is 0 or greater"),
    ],
)
def test_mistakes_in_options(options, message, capsys):
    with pytest.raises(SystemExit):
        trap.main(["--out", "x", *options])
    assert message in capsys.readouterr().err


LUCKY = """
import sys, pytest
from experiments.learning_trap import main
from tests.training.conftest import let_luck_pay
let_luck_pay(pytest.MonkeyPatch())
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_anywhere_it_goes_on(tmp_path):
    arms = ("curiosity", "dual", "no_correction_data")
    command = [sys.executable, "-c", LUCKY, "--quick", "--seeds", "0", "--arms", *arms]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", str(whole)], env=environment, cwd=REPOSITORY, check=True)
    shared, arms = killed / "seed-0" / "shared_images", killed / "seed-0" / "arms"
    for begun in (
        shared / "data" / "pretraining",
        shared / "pretraining" / "metrics.jsonl",
        shared / "warm_start" / "config.json",
        arms / "curiosity" / "run" / "checkpoints",
        arms / "curiosity" / "evaluation",
        arms / "dual" / "run" / "metrics.jsonl",
    ):
        process = subprocess.Popen([*command, "--out", str(killed)], env=environment, cwd=REPOSITORY)
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--out", str(killed)], env=environment, cwd=REPOSITORY, check=True)
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()


def test_other_settings_are_refused(tmp_path):
    config = trap.config_of(trap.ARMS["curiosity"], 0, True)
    trap.save_config(config, tmp_path)
    config.seed = 1
    with pytest.raises(ConfigError, match="an experiment with other settings.*--out"):
        trap.quickstart.check_settings(config, tmp_path, "an experiment", "--out")
