"""Dr. GRPO's advantages and loss, worked by hand, and a run of it."""

import math

import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.training.advantages import GroupRewards, find_advantages
from tests.recipes.losses import loss_of
from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/dr_grpo"


def test_advantages():
    rewards, _ = rewards_of(RECIPE, [said("\\boxed{5}")] * 4, [1, 0, 0, 1])
    found = find_advantages(load_config(RECIPE).grpo.advantage, GroupRewards(rewards[None]))
    np.testing.assert_allclose(found, [[0.5, -0.5, -0.5, 0.5]])


def test_loss():
    """Sums over tokens by the constant length 10, as the mean over two responses."""
    responses = [[0.0] * 6, [math.log(1.1)] * 2]
    assert loss_of(RECIPE, responses, [0.5, -0.5], length=10) == pytest.approx(-(3.0 - 1.1) / 20, rel=1e-5)


def script(episode):
    """Every other response is right."""
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 2 else 'none'}}}"


RUN = Run(script, varied=("correct", "loss"))
