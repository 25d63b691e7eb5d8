"""How a checkpoint wants to be asked, saved beside it."""

import pytest

from pixel_reasoner_jax.operations import MediaState
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.rollout.settings import FILE, PolicySettings, load_policy


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


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such model directory"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_policy(tmp_path)
