"""GSPO's loss, worked by hand, and a run of it."""

import math

import pytest

from tests.recipes.losses import loss_of
from tests.recipes.scripted import Run

RECIPE = "recipes/gspo"


def test_loss():
    """The ratio of a response is 1.1052, above the clip; every response weighs the same."""
    assert loss_of(RECIPE, [[0.1, -0.1, 0.3]], [-1.0]) == pytest.approx(1.1052, rel=1e-4)
    assert loss_of(RECIPE, [[0.1, -0.1, 0.3]], [1.0]) == pytest.approx(-1.0004, rel=1e-6)
    responses = [[0.1, -0.1, 0.3], [-0.1]]
    assert loss_of(RECIPE, responses, [1.0, -1.0]) == pytest.approx((-1.0004 + 0.9997) / 2, abs=1e-6)
    assert loss_of(RECIPE, responses, [1.0, 1.0]) == pytest.approx((-1.0004 - math.exp(-0.1)) / 2, rel=1e-5)


def script(episode):
    """Every other response is right."""
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 2 else 'none'}}}"


RUN = Run(script, varied=("correct", "clip_fraction"))
