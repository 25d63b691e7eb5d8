"""VPPO's shaping, worked by hand, and a run of it."""

import numpy as np
import pytest

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, View

RECIPE = "recipes/vppo"


def test_advantages_stay_at_the_tokens_that_depend_on_the_image():
    """Three responses whose tokens depend on the image by 0.1, 0.2 and 0.4 on average: weights 0.9, 0.975, 1.125."""
    lengths = np.array([2, 1, 5])
    of_tokens = np.array([0.05, 0.15, 0.2, 0.9, 0.1, 0.8, 0.1, 0.1])
    differences = np.array([solve(value) for value in of_tokens])
    view = View(
        lengths=lengths,
        scores={"masked": -1 + differences},
        arrays={"logprobs": np.full(8, -1.0), "advantages": np.array([1.0, 1, -1, 2, 2, 2, 2, 2])},
        sequence_means=lambda values: np.array([part.mean() for part in np.split(values, [2, 3])]),
        gathered=np.sort,
    )
    shaped = config_module(RECIPE).at_dependent_tokens(view, None)
    np.testing.assert_allclose(shaped, [0, 0.9, -0.975, 2.25, 0, 2.25, 0, 0], rtol=1e-4)


def solve(value: float) -> float:
    """d > 0 with exp(d) - d - 1 = value."""
    low, high = 0.0, 5.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.exp(middle) - middle - 1 < value else (low, middle)
    return low


def test_the_dependency_of_a_token():
    from pixel_reasoner_jax.training.shaping import dependency

    assert dependency(np.array([-3.0]), np.array([-1.0]))[0] == pytest.approx(1.1353, abs=1e-4)


def script(episode):
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(script, settings={"grpo.sampling_rounds": 1}, varied=("correct", "dependency"))
