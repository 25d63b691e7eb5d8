"""Mini-o3's rewards, advantages and mask, worked by hand, and a run of it."""

import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.training.advantages import GroupRewards, find_advantages
from pixel_reasoner_jax.training.masks import find_finished
from pixel_reasoner_jax.trajectory import Ended
from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/mini_o3"


def test_rewards_advantages_and_mask():
    group = [
        said("look", "<answer>5</answer>", operations=[called()]),
        said("<answer>4</answer>"),
        said("look", "look", operations=[called()] * 5, ended=Ended.OPERATIONS),
        said("look", ended=Ended.TOKENS),
    ]
    rewards, _ = rewards_of(RECIPE, group, [1, 0, 0, 0])
    assert rewards.tolist() == [1, 0, 0, 0]
    config = load_config(RECIPE).grpo
    advantages = find_advantages(config.advantage, GroupRewards(rewards[None]))
    assert advantages[0] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-4)
    finished = find_finished(np.array([str(one.ended) for one in group]), config.masks)
    assert finished.tolist() == [True, True, False, False]


def test_an_answer_counts_in_its_tags_alone():
    group = [
        said("\\boxed{5}"),
        said("<answer>\\boxed{5}</answer>"),
        said("\\boxed{5} <answer>4</answer>"),
        said("<answer>4</answer><answer>5</answer>"),
    ]
    assert rewards_of(RECIPE, group, [1, 1, 1, 1])[0].tolist() == [0, 1, 0, 0]


def script(episode):
    """The first response looks without an end; the others look in their image or in what they saw; every third errs."""
    if not episode.sample or episode.turn < 2 and episode.sample % 2:
        source = "observation_1" if episode.turn else "original_image"
        return "I look. " + write_call(RECIPE, "grounding", bbox_2d=[0.1, 0.1, 0.9, 0.9], source=source)
    return f"<answer>{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}</answer>"


RUN = Run(script, operations=("grounding",), varied=("correct",), settings={"rollout.max_operations": 2})
