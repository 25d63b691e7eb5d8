"""CISPO's loss, worked by hand, and a run of it."""

import math

import pytest

from tests.recipes.losses import loss_of
from tests.recipes.scripted import Run

RECIPE = "recipes/cispo"


def test_loss():
    """-min(ratio, 1.2) A logprob, as the mean over three tokens whose old log-probability is -1."""
    ratios = [math.log(1.5)], [math.log(0.01), math.log(1.1)]
    weighted = [1.2 * 1.0 * (ratios[0][0] - 1), 0.01 * -2.0 * (ratios[1][0] - 1), 1.1 * -2.0 * (ratios[1][1] - 1)]
    assert loss_of(RECIPE, ratios, [1.0, -2.0]) == pytest.approx(-sum(weighted) / 3, rel=1e-5)


def script(episode):
    """Every other response is right."""
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 2 else 'none'}}}"


RUN = Run(script, varied=("correct", "clip_fraction"))
