"""How a checkpoint wants to be asked, saved beside it."""

import json
import sys
import types

import jax
import pytest
from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import MediaState, allow_own
from pixel_reasoner_jax.operations.swap import SwapTiles
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.rollout.prompt import GUIDELINES, BudgetSizes, OpenedQuery
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


def test_operations_and_their_syntax_are_saved_with_a_checkpoint(tmp_path):
    settings = PolicySettings(operations=("zoom_image", "rotate_image"), syntax="action")
    settings.save(tmp_path)
    assert PolicySettings.load(tmp_path) == settings
    registry = PolicySettings.load(tmp_path).registry()
    assert [operation.name for operation in registry.operations] == ["zoom_image", "rotate_image"]
    assert registry.stop_strings == ("</action>",)
    (tmp_path / FILE).write_text('{"padding": 0.1, "box_rule": "shown"}')  # of an earlier version
    assert PolicySettings.load(tmp_path) == PolicySettings()


def test_a_folder_imports_nothing_that_was_not_named(tmp_path, monkeypatch):
    """A stranger's folder may name any module; only the user's own command or program has it imported."""
    (tmp_path / "strange_tools.py").write_text(
        "print('imported')\nfrom pixel_reasoner_jax.operations.swap import SwapTiles"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "strange_tools", raising=False)
    settings = PolicySettings(operations=("crop_image_normalized", "strange_tools:SwapTiles"))
    settings.save(tmp_path)
    loaded = PolicySettings.load(tmp_path)  # which names them, and no more
    with pytest.raises(UserError, match="--own strange_tools:SwapTiles"):
        loaded.registry()
    with pytest.raises(UserError, match="the syntax of calls 'strange_tools:Syntax'"):
        PolicySettings(syntax="strange_tools:Syntax").registry()
    assert "strange_tools" not in sys.modules
    allow_own(["strange_tools:SwapTiles"])
    assert loaded.registry().operations[1].name == "swap_tiles"
    allow_own(["strange_tools:print_function"])
    with pytest.raises(UserError, match="cannot be imported"):
        PolicySettings(operations=("strange_tools:print_function",)).registry()


@pytest.mark.parametrize("name", ["os:system; rm -rf", "a:b\x1b[2J", "a\nb:c", ":", "a:", "x" * 500 + ":"])
def test_what_a_stranger_calls_an_operation_is_not_repeated_as_a_command(name):
    for settings in (PolicySettings(operations=(name,)), PolicySettings(syntax=name)):
        with pytest.raises(UserError, match="none of ours, nor module:name") as error:
            settings.registry()
        assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_an_operation_of_ones_own_needs_a_name():
    class Nameless(SwapTiles):
        name = None

    Nameless.__init__ = lambda self: None
    module = types.ModuleType("nameless_tools")
    module.Nameless, sys.modules["nameless_tools"] = Nameless, module
    allow_own(["nameless_tools:Nameless"])
    with pytest.raises(UserError, match="'nameless_tools:Nameless' has no `name`"):
        PolicySettings(operations=("nameless_tools:Nameless",)).registry()


def test_a_policy_without_operations_is_asked_for_text_alone():
    registry, store = PolicySettings(operations=()).registry(), PictureStore()
    query = {"id": 0, "question": "What?", "answer": "", "images": [Image.new("RGB", (90, 60))]}
    opened = OpenedQuery.open(query, BudgetSizes(), registry, None, store)
    plain = OpenedQuery.open(query, BudgetSizes(), None, None, store)
    assert [message["content"][-1] for message in opened.messages] == [m["content"][-1] for m in plain.messages]


def test_guidelines_name_the_paper_s_operations_where_they_are_offered():
    query = {"id": 0, "question": "What?", "answer": "", "images": [Image.new("RGB", (90, 60))]}
    texts = {}
    for names in (PolicySettings().operations, ("rotate_image",)):
        registry = PolicySettings(operations=names).registry()
        opened = OpenedQuery.open(query, BudgetSizes(), registry, None, PictureStore())
        texts[names] = opened.messages[1]["content"][-1]["text"]
    default, other = texts.values()
    assert default == f"What?\n\n{GUIDELINES}" and "select_frames" in default
    assert "select_frames" not in other and other.endswith("put your final answer within \\boxed{}.")


def test_operations_know_the_video_that_frames_were_sampled_from():
    frames = [Image.new("RGB", (64, 48))] * 4
    query = {"id": 0, "question": "What?", "answer": "", "video": frames, "fps": 0.5}
    state = OpenedQuery.open(query, BudgetSizes(), None, None, PictureStore()).state
    assert (state.clip.times(range(4)), state.clip.duration) == ((0.0, 2.0, 4.0, 6.0), 8.0)


def test_a_checkpoint_without_settings_has_the_defaults(tmp_path):
    assert PolicySettings.load(tmp_path) == PolicySettings()


@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '{"colour": 1}', '{"box_rule": "mine"}', '{"limits": {"max_operations": -1}}', '{"operations": 3}']
    + ['{"operations": [3]}', '{"syntax": null}'],
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
