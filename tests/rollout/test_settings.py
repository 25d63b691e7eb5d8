"""How a checkpoint wants to be asked, saved beside it."""

import json

import jax
import pytest

from pixel_reasoner_jax.operations import MediaState
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.rollout.settings import FILE, PolicySettings, load_policy, parameter_type


def test_settings_are_saved_with_a_checkpoint(tmp_path):
    settings = PolicySettings("Look closely.", padding=0.01, limits=Limits(max_operations=2, max_length=500))
    settings.save(tmp_path)
    assert PolicySettings.load(tmp_path) == settings


def test_a_checkpoint_from_before_the_box_rule_keeps_its_own(tmp_path):
    settings = PolicySettings(box_rule="raw")
    settings.save(tmp_path)
    assert PolicySettings.load(tmp_path) == settings
    [crop, _] = PolicySettings().registry().signatures(MediaState.from_query(video_frames=["a"]))
    [before, _] = settings.registry().signatures(MediaState.from_query(video_frames=["a"]))
    assert crop != before
    (tmp_path / FILE).write_text('{"padding": 0.1, "release": false}')
    assert PolicySettings.load(tmp_path) == settings
    PolicySettings().save(tmp_path)
    assert PolicySettings.load(tmp_path).box_rule == "shown"


def test_a_checkpoint_without_settings_has_the_defaults(tmp_path):
    assert PolicySettings.load(tmp_path) == PolicySettings()


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"colour": 1}', '{"box_rule": "mine"}', '{"limits": {"max_operations": -1}}']
)
def test_unreadable_settings_are_named(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=FILE):
        PolicySettings.load(tmp_path)


def test_auto_is_the_stored_type_where_it_can_be_computed(tmp_path, monkeypatch):
    for stored, accelerator in (("bfloat16", "bfloat16"), ("float16", "bfloat16"), ("float32", "float32")):
        (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": stored}))
        for backend, expected in (("cpu", "float32"), ("gpu", accelerator), ("tpu", accelerator)):
            monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
            assert parameter_type(tmp_path) == expected
            assert parameter_type(tmp_path, "float32") == "float32"


def test_an_adapter_has_the_settings_of_its_model(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    PolicySettings(padding=0.3).save(base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert PolicySettings.load(adapter).padding == 0.3
    PolicySettings(padding=0.2).save(adapter)
    assert PolicySettings.load(adapter).padding == 0.2


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such model directory; .*`hf download Qwen/Qwen2.5-VL-7B-Instruct "):
        load_policy("Qwen/Qwen2.5-VL-7B-Instruct")
    with pytest.raises(FileNotFoundError, match="nowhere: no such model directory"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_policy(tmp_path)
