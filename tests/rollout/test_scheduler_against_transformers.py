"""Greedy responses in several turns, and where their turns end, are those of transformers."""

import numpy as np
import pytest
import torch
import transformers

from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings
from pixel_reasoner_jax.trajectory import Ended, Source


@pytest.fixture(scope="module")
def oracle(world, tmp_path_factory):
    directory = tmp_path_factory.mktemp("oracle")
    model, processor = world
    model.save_pretrained(directory)
    return transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)


def torch_greedy(oracle, processor, trajectory, **options):
    """What transformers generates greedily from the trajectory's prompt."""
    prompt = trajectory.tokens[trajectory.source == Source.PROMPT]
    kinds = np.isin(prompt, processor.placeholder_tokens).astype(int)
    inputs = dict(
        input_ids=torch.tensor(prompt[None], dtype=torch.long),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        mm_token_type_ids=torch.tensor(kinds[None]),
        pixel_values=torch.tensor(trajectory.media[0].patches),
        image_grid_thw=torch.tensor([trajectory.media[0].grid]),
    )
    settings = transformers.GenerationConfig(
        max_new_tokens=30,
        do_sample=False,
        eos_token_id=list(processor.stop_tokens),
        pad_token_id=processor.endoftext,
        suppress_tokens=processor.forbidden_tokens.tolist() + options.pop("forbidden", []),
        **options,
    )
    with torch.no_grad():
        output = oracle.generate(**inputs, generation_config=settings, tokenizer=processor.tokenizer)
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_greedy_is_that_of_transformers(world, queries, oracle, penalty):
    processor = world[1]
    policy = Policy(*world, limits=Limits(0, max_response_tokens=30), slots=4, decode_steps=7)
    settings = SamplingSettings(0.0, repetition_penalty=penalty, forbidden_tokens=(100, 200))
    for [trajectory] in policy.rollout(queries[:3], sampling=settings):
        written = trajectory.tokens[trajectory.source == Source.SAMPLED].tolist()
        options = {} if penalty == 1.0 else {"repetition_penalty": penalty}
        assert written == torch_greedy(oracle, processor, trajectory, forbidden=[100, 200], **options)


def test_stop_strings_end_a_turn_where_transformers_ends_it(world, queries, oracle):
    """Any piece of what would be written, token boundaries or not."""
    processor = world[1]
    free = Policy(*world, limits=Limits(0, max_response_tokens=30), slots=4, decode_steps=16)
    forbidden = list(processor.stop_tokens)
    settings = SamplingSettings(0.0, forbidden_tokens=forbidden)
    [[trajectory]] = free.rollout(queries[:1], sampling=settings)
    text = trajectory.response
    cut = 0
    for start, end in [(3, 6), (8, 9), (11, 17), (0, 2)]:
        if "\ufffd" in text[start:end] or not text[start:end].strip():
            continue
        stop = text[start:end]
        stopping = SamplingSettings(0.0, forbidden_tokens=forbidden, stop_strings=(stop,))
        [[stopped]] = free.rollout(queries[:1], sampling=stopping)
        written = stopped.tokens[stopped.source == Source.SAMPLED].tolist()
        assert written == torch_greedy(oracle, processor, trajectory, forbidden=forbidden, stop_strings=[stop])
        assert stop in stopped.response and stopped.ended == Ended.ANSWER
        cut += 1
    assert cut >= 2
