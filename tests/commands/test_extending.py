"""The parts of docs/extending.md, no parts of the program, where commands name them; see also test_own_operation."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from data_pipeline.records import RecordSource
from data_pipeline.sources import open_source
from pixel_reasoner_jax.commands import cli, evaluate_benchmarks
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.training.advantages import GroupRewards, find_advantages
from tests.commands.test_evaluate_benchmarks import ScriptedModel
from tests.commands.test_own_operation import modules_of
from tests.conftest import REPOSITORY
from tests.data_pipeline.synthesis.seeds import encoded, picture
from tests.recipes.scripted import called, responses_of, said
from tests.training.conftest import let_luck_pay, make_rl_config, start  # noqa: F401

NAMES = {"my_rewards", "my_advantages", "my_losses", "my_plans", "my_benchmarks", "my_sources", "my_trackers"}


@pytest.fixture
def modules(tmp_path, monkeypatch) -> dict[str, str]:
    """The modules of the document, in the folder where commands are started."""
    found = dict(modules_of((REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")))
    for name, source in found.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield found
    for name in found:
        sys.modules.pop(name, None)


def test_each_is_a_file_of_forty_lines_at_most(modules):
    assert modules.keys() >= NAMES
    assert all(len(source.splitlines()) <= 40 for source in modules.values())


def test_an_advantage(modules):
    found = find_advantages("my_advantages:ranked", GroupRewards(np.array([[0.0, 5.0, 1.0, 1.0]])))
    np.testing.assert_allclose(found, [[-1.0, 1.0, 0.0, 0.0]])


def test_a_run_that_has_them_all(modules, start, tmp_path, monkeypatch, capsys):  # noqa: F811
    let_luck_pay(monkeypatch)
    config = make_rl_config(start, tmp_path)
    config.train.steps = 1
    (tmp_path / "rl_mine.py").write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({config.to_json_best_effort()!r}))\n"
    )
    settings = {
        "rewards.terms.brief.function": "my_rewards:brief_after_looking",
        "grpo.advantage": "my_advantages:ranked",
        "grpo.loss": "my_losses:faded",
        "rollout.subgroups.plain.samples": 2,
        "rollout.subgroups.seeing.samples": 2,
        "rollout.subgroups.seeing.query": "my_plans:describe_first",
        "metrics.trackers": "tensorboard,my_trackers:Lines",
    }
    assert cli.main(["rl", "--config", "rl_mine.py", *(f"--config.{k}={v}" for k, v in settings.items())]) == 0
    [line] = read_metrics(tmp_path / "run")
    assert line["reward_brief"] == 0 and line["updates"] == 1 and "accuracy_seeing" in line
    [tracked] = [text for text in (tmp_path / "run" / "lines.txt").read_text().splitlines() if "reward_brief=" in text]
    assert tracked.startswith("1 ")


def test_a_reward(modules):
    from my_rewards import brief_after_looking

    looked = said("a", "b", operations=[called()])
    given = responses_of("rl_qwen2_5_vl_7b", [looked, said("a")], [1, 1], {"worth": 0.5})
    assert brief_after_looking(given).tolist() == [[0.5, 0.0]]


def test_a_benchmark(modules, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    lines = []
    for number in range(4):
        (tmp_path / "data" / f"{number}.png").write_bytes(encoded(picture(number)))
        row = {"id": str(number), "image": f"{number}.png", "question": "How many?", "answer": number, "kind": "cats"}
        lines.append(json.dumps(row))
    (tmp_path / "data" / "counting.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(evaluate_benchmarks, "LocalModel", ScriptedModel)
    given = ["--model", "some/model", "--on", "my_benchmarks:Counting:data", "--out", "out"]
    assert cli.main(["evaluate", *given]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    [(name, found)] = [(name, one) for name, one in figures.items() if isinstance(one, dict)]
    assert found["count"] == 4 and "unreadable" not in {key for key, value in found.items() if value}, name


def test_a_source(modules, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    for number in range(6):
        (tmp_path / "notes" / f"{number}.png").write_bytes(encoded(picture(number)))
        (tmp_path / "notes" / f"{number}.txt").write_text(f"What is {number}?\ncat\n0.4 0.4 0.6 0.6\n")
    (tmp_path / "notes" / "3.txt").write_text("What?\n")
    given = ["--source", "my_sources:Notes:notes", "--count", "8", "--out", "made", "--workers", "1"]
    assert cli.main(["synthesize", *given]) in (0, 1)
    assert {draft.question for draft in RecordSource(tmp_path / "made", "trajectory")} <= {
        f"What is {number}?" for number in range(6)
    }
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rejected"]["unreadable"] == 1
    for spec, message in (
        ("nothing:x", "or module:name:PATH"),
        ("table:", "has no path"),
        ("my_sources:None_:x", "cannot be imported"),
        ("my_trackers:Lines:x", "made of a path"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(spec)
