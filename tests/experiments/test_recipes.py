"""The experiment that compares recipes: what it takes of each, and arms end to end."""

import json

import pytest

from experiments import learning_trap as trap
from experiments import recipes
from tests.experiments.test_learning_trap import rows
from tests.training.conftest import let_luck_pay


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_every_recipe_has_valid_settings_in_the_world(recipe):
    changes = recipes.changes_of(recipe)
    config = trap.config_of(trap.Arm(recipe, changes), 1, quick=False)
    assert config.rl.optimizer.learning_rate == 2e-4 and config.rl.rollout.max_response_tokens == 96
    assert changes


def test_what_a_recipe_changes_is_its_method_alone():
    found = recipes.changes_of("deepeyes")
    assert found["rl.rewards.terms.used.weight"] == 1.2 and found["rl.rewards.terms.used.gate"] == "correct"
    assert found["rl.grpo.advantage"] == "std" and "rl.replay.method" not in found  # none there, too
    assert not any("operations.names" in key or "max_length" in key or "row_length" in key for key in found)
    assert recipes.changes_of("adagrpo")["rl.rollout.samples"] == 8
    paper = {"rl.curiosity.alpha": 0.5, "rl.curiosity.rate_floor": 0.3, "rl.replay.method": "paper"}
    assert recipes.changes_of("pixel_reasoner") == paper
    assert recipes.changes_of("mini_o3")["rl.rewards.terms.correct.function"] == "accuracy"


def test_the_table_says_when_recipes_arrive():
    episodes = [{"step": step, "accuracy": step / 10 + 0.01, "operations": step / 20} for step in range(1, 11)]
    found = {"dapo": rows((0, 1), (0.9, 0.9), (1.0, 1.0)), "gspo": rows((0,), (0.4,), (0.0,))}
    found["dapo"][0]["episodes"], found["gspo"][0]["episodes"] = episodes, episodes[:5]
    heading, dapo, gspo = recipes.table(found)
    assert heading[-1] == "Episodes to 0.8" and dapo[:2] == ["dapo", "0, 1"]
    assert dapo[-2:] == ["0.50", "8, never"] and gspo[-2:] == ["0.25", "never"]


@pytest.mark.slow
def test_arms_run(start, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trap, "start_model", lambda *arguments: start / "model")
    let_luck_pay(monkeypatch)
    given = ["--out", str(tmp_path), "--quick", "--seeds", "3", "--recipes", "deepeyes", "vppo"]
    assert recipes.main(given) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.keys() == {"deepeyes", "vppo"} and found["vppo"]["made_updates"] == [2]
