"""A small random model of the real architecture with a processor of the pixel-search world."""

import dataclasses

import pytest

from data_pipeline import lessons
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.rollout import Limits, Policy
from tests.endpoint.conftest import connect, server  # noqa: F401


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """(model, processor): random weights, crops from 4 to 12 tokens so that their grids differ."""
    directory = tmp_path_factory.mktemp("world")
    lessons.save_world_processor(directory, default_registry())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    config = dataclasses.replace(
        Config.preset("tiny"),
        vocab_size=len(tokenizer) + 3,  # rows of the embedding that no token has, as in the released models
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    Qwen2_5_VL.create(config, 0).save_pretrained(directory)
    budgets = Budgets(image=(16, 20), crop=(4, 12), frame=(4, 12), video=(4, 8), video_frames=5)
    return Qwen2_5_VL.from_pretrained(directory), Processor.from_pretrained(directory, budgets)


@pytest.fixture
def policy(world) -> Policy:
    return Policy(*world, limits=Limits(max_operations=2, max_response_tokens=160), slots=16, decode_steps=8)


@pytest.fixture(scope="session")
def queries():
    source = PixelSearch(6, "rl")
    return [source[index].query() for index in range(6)]
