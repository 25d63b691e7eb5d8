"""The quickstart world's processor, without a model."""

from __future__ import annotations

import json
import pathlib

import pytest

from data_pipeline import lessons
from pixel_reasoner_jax.operations import Registry, default_registry
from pixel_reasoner_jax.processing import Processor
from tests.data_pipeline.tables import write_media


@pytest.fixture(scope="session")
def registry() -> Registry:
    return default_registry(padding=lessons.PADDING)


@pytest.fixture(scope="session")
def world_directory(registry, tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("world")
    lessons.save_world_processor(directory, registry)
    vision = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112}
    config = {"model_type": "qwen2_5_vl", "vision_config": vision}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def processor(world_directory) -> Processor:
    return Processor.from_pretrained(world_directory)


@pytest.fixture
def folder(tmp_path):
    """A folder with the media that rows of tables name."""
    return write_media(tmp_path / "data")
