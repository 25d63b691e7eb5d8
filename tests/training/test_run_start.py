"""What a run takes over, saves and refuses before its first step."""

import copy
import dataclasses
import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.parallel import MeshError
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.training import rl, sft, training_run
from pixel_reasoner_jax.training.training_run import TrainingRun


def test_parts_that_there_are_not_are_named_before_anything_is_loaded(rl_config):
    rl_config.model.directory = "nowhere"
    for key, kind in (("replay.method", "replay method"), ("grpo.advantage", "advantage")):
        config = copy.deepcopy(rl_config)
        section, name = key.split(".")
        config[section][name] = "nowhere_at_all:function"
        with pytest.raises(UserError, match=f"{kind} 'nowhere_at_all:function' cannot be imported"):
            rl.run(config)


def test_one_device_is_no_mesh_of_three(sft_config):
    sft_config.mesh.tensor = 3
    with pytest.raises(MeshError, match="a multiple of 3 devices, but there are 1"):
        sft.run(sft_config)


def test_a_cpu_is_not_asked_for_bfloat16(sft_config):
    sft_config.model.dtype = "bfloat16"
    with pytest.raises(ConfigError, match="--config.model.dtype=float32"):
        sft.run(sft_config)


def test_data_that_are_not_there_are_named_with_their_setting(sft_config, rl_config, tmp_path):
    here = rl_config.data.path
    sft_config.data.path = str(tmp_path / "nowhere")
    with pytest.raises(
        ConfigError, match="config.data.path names .*nowhere, where no data set is complete: .*synthesize"
    ):
        sft.run(sft_config)
    rl_config.data.path = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="names .*nowhere, .*: give a table of questions and answers") as raised:
        rl.run(rl_config)
    assert "synthesize" not in str(raised.value)
    rl_config.data.path = str(tmp_path / "gone.csv")
    with pytest.raises(ConfigError, match="config.data.path names .*gone.csv, and there is no such file"):
        rl.run(rl_config)
    rl_config.data.mixture = ((here, 1.0), ("elsewhere", 1.0))
    with pytest.raises(ConfigError, match="config.data.mixture names elsewhere"):
        rl.run(rl_config)


def test_a_directory_in_use_is_refused(sft_config, uninterrupted):
    sft_config.workdir = str(uninterrupted("sft").parent)
    with pytest.raises(ConfigError, match="already holds a run.*--resume"):
        sft.run(sft_config)


def test_a_run_whose_data_grew_does_not_go_on(sft_config, uninterrupted, monkeypatch):
    sft_config.workdir = str(uninterrupted("sft").parent)
    monkeypatch.setattr(training_run, "record_count", lambda *_: 99)
    with pytest.raises(ConfigError, match="have 99 records, and had .* when it was last saved"):
        sft.run(sft_config, resume=True)


def test_a_start_that_failed_may_be_tried_again(sft_config, tmp_path):
    model, sft_config.model.directory = sft_config.model.directory, str(tmp_path / "nowhere")
    sft_config.media.root = str(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"the root of media \(media\.root, --media-root\) is .*nowhere, which is no folder"
    ):
        TrainingRun(sft_config)
    sft_config.media.root = None
    with pytest.raises(ConfigError, match="config.model.directory is .*nowhere, which has no config.json"):
        TrainingRun(sft_config)
    sft_config.model.directory = model
    with TrainingRun(sft_config):
        pass


def without(file: pathlib.Path, *keys: str) -> None:
    """Removes dotted keys from a JSON file, as if it had been written before there were such settings."""
    content = json.loads(file.read_text())
    for key in keys:
        *sections, name = key.split(".")
        del functools.reduce(dict.__getitem__, sections, content)[name]
    file.write_text(json.dumps(content))


def rules(config, resume: bool = False) -> tuple[str, ...]:
    """The rules of a run that starts: those that it uses, which must be those that it saves."""
    with TrainingRun(config, resume) as run:
        used = run.processor.position_rule, run.settings.box_rule
    saved = json.loads((pathlib.Path(config.workdir) / "config.json").read_text())
    assert (saved["model"]["position_rule"], saved["operations"]["box_rule"]) == used
    beside = pathlib.Path(config.workdir) / "initial"
    assert (Processor.from_pretrained(beside).position_rule, PolicySettings.load(beside).box_rule) == used
    return used


def test_rules_stay_with_a_run_and_with_a_model(sft_config, tmp_path):
    """A run from before they were settings goes on with its own, and so does one from a model of that time."""
    fresh, workdir = copy.deepcopy(sft_config), pathlib.Path(sft_config.workdir)
    assert rules(copy.deepcopy(fresh)) == rules(copy.deepcopy(fresh), resume=True) == ("released", "shown")
    without(workdir / "config.json", "model.position_rule", "operations.box_rule")
    assert rules(copy.deepcopy(fresh), resume=True) == ("transformers", "raw")
    fresh.operations.box_rule = "shown"
    with pytest.raises(ConfigError, match="config.operations.box_rule is 'shown', but the run in .* with 'raw'"):
        TrainingRun(fresh, resume=True)

    model = pathlib.Path(shutil.copytree(sft_config.model.directory, tmp_path / "model"))
    without(model / "preprocessor_config.json", "position_rule")
    without(model / "pixel_reasoner.json", "box_rule")
    sft_config.model.directory = str(model)
    for number, given in enumerate(((None, None), ("released", None), (None, "shown"))):
        config = copy.deepcopy(sft_config)
        config.workdir = str(tmp_path / f"run{number}")
        config.model.position_rule, config.operations.box_rule = given
        assert rules(config) == (given[0] or "transformers", given[1] or "raw")


def operations_of(config, resume: bool = False) -> tuple[tuple[str, ...], str]:
    """The operations of a run that starts, and their syntax: those that it uses, which must be those that it saves."""
    with TrainingRun(config, resume) as run:
        used = run.settings.operations, run.settings.syntax
    saved = json.loads((pathlib.Path(config.workdir) / "config.json").read_text())["operations"]
    assert (tuple(saved["names"]), saved["syntax"]) == used
    beside = PolicySettings.load(pathlib.Path(config.workdir) / "initial")
    assert (beside.operations, beside.syntax) == used
    return used


def test_operations_stay_with_a_run_and_with_a_model(sft_config, tmp_path):
    default, others = (
        (("crop_image_normalized", "select_frames"), "tool_call"),
        (("zoom_image", "rotate_image"), "action"),
    )
    fresh, workdir = copy.deepcopy(sft_config), pathlib.Path(sft_config.workdir)
    assert operations_of(copy.deepcopy(fresh)) == operations_of(copy.deepcopy(fresh), resume=True) == default
    saved = (workdir / "config.json").read_text()
    for key, name in (("names", ["strange_tools:Zoom"]), ("syntax", "strange_tools:Syntax")):
        strange = json.loads(saved)
        strange["operations"][key] = name
        (workdir / "config.json").write_text(json.dumps(strange))
        with pytest.raises(UserError, match="strange_tools.* is imported only if a command names it"):
            TrainingRun(copy.deepcopy(fresh), resume=True)
    (workdir / "config.json").write_text(saved)
    without(workdir / "config.json", "operations.names", "operations.syntax")  # of an earlier version
    assert operations_of(copy.deepcopy(fresh), resume=True) == default
    fresh.operations.names = ("zoom_image",)
    with pytest.raises(
        ConfigError, match="config.operations.names is .*zoom_image.*, but the run in .* was started with"
    ):
        TrainingRun(fresh, resume=True)

    model = pathlib.Path(shutil.copytree(sft_config.model.directory, tmp_path / "model"))
    PolicySettings(operations=others[0], syntax=others[1]).save(model)
    sft_config.model.directory, sft_config.workdir = str(model), str(tmp_path / "other")
    assert operations_of(copy.deepcopy(sft_config)) == others
    assert operations_of(copy.deepcopy(sft_config), resume=True) == others
    for names, syntax, message in (
        (("zoom_image", "no_such_module:Zoom"), None, "'no_such_module:Zoom' cannot be imported"),
        (("swap_tiles", "swap_tiles_3x3"), None, "an operation named 'swap_tiles' is registered already"),
        (None, "no_such_module:Syntax", "'no_such_module:Syntax' cannot be imported"),
    ):
        config = copy.deepcopy(sft_config)
        config.workdir, config.operations.names, config.operations.syntax = str(tmp_path / "none"), names, syntax
        with pytest.raises(UserError, match=message):
            TrainingRun(config)
    assert not (tmp_path / "none").exists()


def test_budgets_that_the_config_leaves_open_are_the_model_s(sft_config, start, capsys):
    """They are saved with the run, which keeps them to its end."""
    own = Processor.from_pretrained(start / "model").budgets
    sft_config.processor.update(dict.fromkeys(("image", "frame", "video", "video_frames", "video_rate")))
    sft_config.processor.crop = (5, 7)
    fresh = copy.deepcopy(sft_config)
    with TrainingRun(sft_config) as run:
        assert run.processor.budgets == dataclasses.replace(own, crop=(5, 7))
    assert "config.processor.crop = [5, 7] (the model's: [16, 20])" in capsys.readouterr().err
    file = pathlib.Path(sft_config.workdir) / "config.json"
    saved = json.loads(file.read_text())
    assert (saved["processor"]["image"], saved["processor"]["crop"]) == ([16, 20], [5, 7])
    saved["processor"]["image"] = [15, 21]
    file.write_text(json.dumps(saved))
    with TrainingRun(fresh, resume=True) as run:
        assert run.processor.budgets == dataclasses.replace(own, crop=(5, 7), image=(15, 21))
    assert "config.processor" not in capsys.readouterr().err.partition("was trained with other budgets")[0]


def test_a_run_begins_with_an_adapter_merged_into_its_model(sft_config, start, tmp_path):
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "base_model_name_or_path": str(start / "model")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    name, one = "model.layers.0.mlp.up_proj", np.ones((256, 1), np.float32)
    factors = {f"base_model.model.{name}.lora_A.weight": one[:96].T, f"base_model.model.{name}.lora_B.weight": one}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    sft_config.model.directory = str(tmp_path)
    with TrainingRun(sft_config) as run:
        kernel = np.asarray(run.model.language.layers.mlp.up.kernel[0])
        np.testing.assert_allclose(kernel, load_file(start / "model" / "model.safetensors")[f"{name}.weight"].T + 2)
        assert run.settings == PolicySettings.load(start / "model")


def test_a_config_that_cannot_train_is_refused_before_anything_is_written(sft_config, rl_config):
    sft_config.train.update(dict(steps=None, epochs=1, batch_size=25))
    with pytest.raises(ConfigError, match="24 trajectories .*batch_size is 25"):
        sft.run(sft_config)
    rl_config.rollout.max_length = 385
    with pytest.raises(ConfigError, match="max_length is 385.*row_length = 384"):
        rl.run(rl_config)
    rl_config.rollout.max_length = 384
    rl_config.rewards.terms.long = ConfigDict(dict(function="overlong", weight=0.0, gate="none", cap=0.0))
    with pytest.raises(ConfigError, match="overlong_margin is 4096.*at most config.rollout.max_response_tokens = 96"):
        rl.run(rl_config)
    rl_config.rewards.overlong_margin = 96
    rl_config.curiosity.alpha_bounds = (0.6, 0.7)
    with pytest.raises(ConfigError, match="alpha is 0.5, where dual multipliers begin"):
        rl.run(rl_config)
    rl_config.curiosity.alpha_bounds = (0.0, 0.7)
    rl_config.train.steps, rl_config.grpo.queries_per_episode = None, 9
    with pytest.raises(ConfigError, match="8 queries .*queries_per_episode is 9"):
        rl.run(rl_config)
    assert not pathlib.Path(rl_config.workdir).exists()
