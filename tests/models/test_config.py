"""Configurations there and back, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from transformers import Qwen2_5_VLConfig

from pixel_reasoner_jax.models import Config, ModelConfigError, VisionConfig

FLAT = {
    "model_type": "qwen2_5_vl",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vision_config": {"depth": 32, "hidden_size": 1280, "in_chans": 3},
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}


def test_the_real_config_is_the_7b_preset(qwen_dir):
    config = Config.from_hf(json.loads((qwen_dir / "config.json").read_text()))
    assert config == Config.preset("7b")


def test_transformers_nested_form_of_the_real_config(qwen_dir):
    nested = Qwen2_5_VLConfig.from_pretrained(qwen_dir).to_dict()
    assert "text_config" in nested
    assert Config.from_hf(nested) == Config.preset("7b")


@pytest.mark.parametrize("name", ["tiny", "3b", "7b", "32b", "72b"])
def test_presets_go_through_transformers_and_back(name):
    config = Config.preset(name)
    theirs = Qwen2_5_VLConfig.from_dict(json.loads(json.dumps(config.to_hf())))
    assert Config.from_hf(theirs.to_dict()) == config
    assert Config.from_hf(config.to_hf()) == config


def test_several_end_tokens_survive():
    config = dataclasses.replace(Config.preset("tiny"), eos_token_id=(507, 505))
    assert Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config


def test_released_names_of_old_files():
    config = Config.from_hf(FLAT)
    assert config.vision.in_channels == 3
    assert config.vision.window_patches == 64
    assert config.vision.patch_dim == 1176
    assert not config.tie_word_embeddings


def test_tying_in_either_place():
    assert Config.from_hf(FLAT | {"tie_word_embeddings": True}).tie_word_embeddings
    nested = Config.preset("7b").to_hf()
    nested["text_config"]["tie_word_embeddings"] = True
    assert Config.from_hf(nested).tie_word_embeddings


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "qwen2_vl"}, "model_type is 'qwen2_vl'"),
        ({"vision_config": None}, "vision_config"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"vision_config": {"hidden_act": "quick_gelu"}}, "vision_config.hidden_act"),
        ({"use_sliding_window": True, "max_window_layers": 20}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "'yarn'"),
        ({"num_hidden_layers": None}, "lacks num_hidden_layers"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 25]}}, "mrope_section"),
        ({"vision_config": {"out_hidden_size": 2048}}, "out_hidden_size is 2048"),
        ({"vision_config": {"fullatt_block_indexes": [7, 32]}}, r"\[32\]"),
        ({"vision_config": {"window_size": 100}}, "window_size"),
    ],
)
def test_unsupported_configs_are_errors_that_name_the_key(change, message):
    with pytest.raises(ModelConfigError, match=message):
        Config.from_hf(copy.deepcopy(FLAT) | change)


def test_unused_sliding_window_is_accepted():
    Config.from_hf(FLAT | {"use_sliding_window": True, "max_window_layers": 28, "sliding_window": 32768})


def test_unknown_preset_lists_the_known():
    with pytest.raises(ModelConfigError, match="tiny, 3b, 7b, 32b, 72b"):
        Config.preset("8b")


def test_heads_must_divide():
    with pytest.raises(ModelConfigError, match="hidden_size 100"):
        VisionConfig(hidden_size=100, num_heads=16)
