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


@pytest.mark.parametrize("version", ["4.49", "4.52", "4.57"])
def test_forms_that_transformers_4_wrote(version):
    """4.49: flat. From 4.52 on nested, with the same flat beside it; tokens at the root alone, `dtype` from 4.56 on."""
    text = {key: value for key, value in FLAT.items() if key not in ("model_type", "vision_config")}
    text |= {
        "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
        "rope_theta": 500_000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": 28,
    }
    root = {"model_type": "qwen2_5_vl", "bos_token_id": 3, "eos_token_id": 5, "image_token_id": 7, "video_token_id": 9}
    vision = {"model_type": "qwen2_5_vl", "depth": 32, "hidden_size": 1280, "in_channels": 3, "in_chans": 3}
    written = {"vision_config": vision, "torch_dtype": "bfloat16", **text, **root}
    if version != "4.49":
        nested = text | {"model_type": "qwen2_5_vl_text", "layer_types": ["full_attention"] * 28, "vocab_size": 151_700}
        written |= {"text_config": nested | {"image_token_id": None}}
    config = Config.from_hf(written)
    assert (config.bos_token_id, config.eos_token_id, config.image_token_id, config.video_token_id) == (3, 5, 7, 9)
    assert config.vocab_size == (152_064 if version == "4.49" else 151_700)  # of a resized model, the flat one is old
    assert (config.rope_theta, config.mrope_section, config.vision.in_channels) == (500_000.0, (16, 24, 24), 3)


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
        (
            {"model_type": "qwen3_vl"},
            "model_type is 'qwen3_vl'; only .*: this is Qwen3-VL, a later network; take a Qwen2",
        ),
        ({"model_type": "qwen2_vl"}, "this is Qwen2-VL, an earlier network; take a Qwen2.5-VL"),
        ({"model_type": "qwen2"}, "this is Qwen2 or Qwen2.5, which sees no images"),
        ({"model_type": ["qwen2"]}, r"model_type is \['qwen2'\]"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            r"are quantized \(AWQ\).* take the model that it",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "GPTQ"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": 4}, "a kind that it does not name"),
        ({"hidden_size": "3584"}, "hidden_size is '3584'; it must be a whole number"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'; it must be a number"),
        ({"rope_theta": [1]}, r"rope_theta is \[1\]; it must be a number"),
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": "abc"}},
            "mrope_section is 'abc'; it must be whole numbers",
        ),
        ({"rope_scaling": [1]}, "rope_scaling is"),
        ({"text_config": [1]}, "text_config is"),
        ({"vision_config": [1]}, "vision_config is"),
        ({"vision_config": {"depth": "32"}}, "vision_config.depth is '32'"),
        ({"vision_config": {"fullatt_block_indexes": 7}}, "vision_config.fullatt_block_indexes is 7"),
        ({"eos_token_id": ["a"]}, "eos_token_id is"),
        ({"image_token_id": "<|image_pad|>"}, "image_token_id is"),
        ({"use_sliding_window": True, "max_window_layers": "20"}, "use_sliding_window|sliding"),
        ({"max_position_embeddings": [1]}, "max_position_embeddings is"),
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
