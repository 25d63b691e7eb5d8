"""DAPO's rewards and loss, worked by hand, and a run of it."""

import math

import pytest

from tests.recipes.losses import loss_of
from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/dapo"


def test_rewards():
    group = [said("\\boxed{5}", tokens=tokens) for tokens in (16_384, 18_432, 20_480, 100)]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 0, 0])
    assert terms["overlong"].tolist() == pytest.approx([0.0, -0.5, -1.0, 0.0])
    assert rewards.tolist() == pytest.approx([2.0, 1.5, -1.0, 0.0])


def test_loss():
    """Clipped at 1.28 above and at 0.8 below, as the mean over three tokens."""
    responses = [[math.log(1.5)], [math.log(0.5), math.log(1.5)]]
    assert loss_of(RECIPE, responses, [1.0, -1.0]) == pytest.approx(-(1.28 - 0.8 - 1.5) / 3, rel=1e-5)


def script(episode):
    """Every other response is right, and one of four comes near the limit."""
    thought = " ".join(map(str, range(100, 255))) if episode.sample == 3 else "I think."
    return f"{thought} \\boxed{{{episode.prompt.query['answer'] if episode.sample % 2 else 'none'}}}"


RUN = Run(script, settings={"rewards.overlong_margin": 600}, varied=("correct", "overlong"))
