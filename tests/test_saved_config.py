"""The config that is saved with a run: what it is for, and what a run that goes on may change."""

from __future__ import annotations

import json

import pytest

from pixel_reasoner_jax import config_values
from pixel_reasoner_jax.config import ConfigError, check_values, load_config
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.saved_config import EARLIER, FIXED, load_saved, open_workdir, save_config, take_over

RL = "configs/rl_qwen2_5_vl_7b.py"
RULES_BY_KEY = {"model.position_rule": config_values.POSITION_RULES, "operations.box_rule": config_values.BOX_RULES}


def started(tmp_path, *overrides, of=RL):
    """The config of a run in `tmp_path`/run, and its directory."""
    config = load_config(of, [("workdir", str(tmp_path / "run")), *overrides])
    workdir = open_workdir(config, resume=False)
    save_config(config, workdir)
    return config, workdir


def test_the_resolved_config_is_saved_with_the_run(tmp_path):
    config, workdir = started(tmp_path, ("train.steps", "3"))
    saved = load_saved(workdir)
    assert saved.train.steps == 3 and list(saved.processor.image) == [4, 2000]
    check_values(saved)
    with pytest.raises(ConfigError, match="--resume"):
        open_workdir(config, resume=False)
    with pytest.raises(ConfigError, match="holds no run"):
        load_saved(tmp_path)


def test_a_folder_in_the_place_of_the_config_is_named(tmp_path):
    config, workdir = started(tmp_path)
    (workdir / "config.json").unlink()
    (workdir / "config.json").mkdir()
    for read in (load_saved, lambda _: take_over(config), lambda _: open_workdir(config, resume=True)):
        with pytest.raises(ConfigError, match="config.json cannot be read: Is a directory$"):
            read(workdir)


def test_a_directory_holds_a_run_only_once_its_config_is_saved(tmp_path):
    config = load_config(RL, [("workdir", str(tmp_path / "run"))])
    workdir = open_workdir(config, resume=False)
    assert not workdir.exists() and open_workdir(config, resume=False) == workdir


def test_a_file_is_no_directory_for_a_run(tmp_path):
    (tmp_path / "run").write_text("notes")
    with pytest.raises(UserError, match="run is to be a folder, and .*run is a file: choose another"):
        open_workdir(load_config(RL, [("workdir", str(tmp_path / "run"))]), resume=False)


def test_a_run_that_goes_on_says_what_is_new(tmp_path, capsys):
    config, workdir = started(tmp_path)
    assert open_workdir(config, resume=True) == workdir and capsys.readouterr().err == ""
    config.optimizer.learning_rate, config.train.steps = 3e-6, 9
    open_workdir(config, resume=True)
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "config.optimizer.learning_rate is 3e-06 from here on; it was 1e-06",
        "config.train.steps is 9 from here on; it was None",
    ]
    assert load_saved(workdir).optimizer.learning_rate == 1e-6  # until the run has really begun


@pytest.mark.parametrize("key", FIXED)
def test_a_run_cannot_go_on_with_other_data_or_another_model(tmp_path, key, capsys):
    config, workdir = started(tmp_path, of="sft_qwen2_5_vl_7b" if key == "data.held_out" else RL)
    section, name = config[key.split(".")[0]] if "." in key else config, key.split(".")[-1]
    section[name] = {str: "other", int: 3, bool: not section[name], float: 0.5, tuple: ("up",)}[section.get_type(name)]
    config.train.steps = 9
    with pytest.raises(ConfigError, match=rf"config\.{key} is .* started with .*--config.workdir"):
        open_workdir(config, resume=True)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("key", "earlier"), [(key, EARLIER[key]) for key in RULES_BY_KEY])
def test_a_run_keeps_the_rule_it_began_with(tmp_path, key, earlier, capsys):
    """Also one that began before the rule was a setting, for which no other may be asked."""
    section, name = key.split(".")
    kept = next(value for value in RULES_BY_KEY[key] if value != earlier)
    config, workdir = started(tmp_path, (key, kept))
    again = load_config(RL, [("workdir", str(workdir))])
    assert again[section][name] is None  # left open: a new run takes the model's
    take_over(again)
    assert again[section][name] == kept

    saved = json.loads((workdir / "config.json").read_text())
    del saved[section][name]
    (workdir / "config.json").write_text(json.dumps(saved))
    again = load_config(RL, [("workdir", str(workdir))])
    take_over(again)
    assert again[section][name] == earlier
    open_workdir(again, resume=True)
    assert capsys.readouterr().err == ""
    again[section][name] = kept
    with pytest.raises(ConfigError, match=rf"config\.{key} is '{kept}', but .* was started with '{earlier}'"):
        open_workdir(again, resume=True)


def test_a_run_keeps_its_rules_of_answers(tmp_path):
    config, workdir = started(tmp_path)
    config.rewards.rules = "release"
    with pytest.raises(ConfigError, match="rewards.rules is 'release', but .* was started with 'strict'"):
        open_workdir(config, resume=True)
    saved = json.loads((workdir / "config.json").read_text())
    del saved["rewards"]
    (workdir / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match="was started before config.rewards.rules was a setting"):
        open_workdir(config, resume=True)


@pytest.mark.parametrize("text", ["", '{"seed": 0', "[1]", "\xff", "null", "{}"])
def test_a_damaged_saved_config_is_named(tmp_path, text):
    config, workdir = started(tmp_path)
    (workdir / "config.json").write_text(text, encoding="latin-1")
    for read in (load_saved, lambda _: open_workdir(config, resume=True)):
        with pytest.raises(ConfigError, match="config.json is not the config that a run saved"):
            read(workdir)


@pytest.mark.parametrize(("given", "kept"), [(0, 1000), (700, 700), (5000, 1000)])
def test_a_run_keeps_the_cache_that_memory_has_decided_on(tmp_path, given, kept):
    """With rollout.slots = 0; more was not there when it began."""
    _, workdir = started(tmp_path, ("rollout.slots", "64"), ("rollout.cache_tokens", "1000"))
    again = load_config(RL, [("workdir", str(workdir)), ("rollout.slots", "0"), ("rollout.cache_tokens", str(given))])
    take_over(again)
    assert (again.rollout.slots, again.rollout.cache_tokens) == (64, kept)
