"""A processor with the real tokenizer, and one with a tokenizer of single bytes that needs no file."""

from __future__ import annotations

import json
import pathlib

import pytest

from data_pipeline.tokenizer import train_tokenizer
from pixel_reasoner_jax.processing import Processor

CONFIG = {
    "model_type": "qwen2_5_vl",
    "text_config": {"vocab_size": 320, "hidden_size": 32, "bos_token_id": None, "eos_token_id": 2},
    "vision_config": {"patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "tokens_per_second": 4},
}
PREPROCESSOR = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "patch_size": 14, "merge_size": 2}


@pytest.fixture(scope="session")
def real(qwen_dir: pathlib.Path) -> Processor:
    return Processor.from_pretrained(qwen_dir)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("tiny")
    train_tokenizer(["user\n", "assistant\n"], 300).save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return directory


@pytest.fixture(scope="session")
def tiny(tiny_directory: pathlib.Path) -> Processor:
    return Processor.from_pretrained(tiny_directory)
