"""VOGUE's bonuses, worked by hand, and a run of it."""

import types

import numpy as np

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, View

RECIPE = "recipes/vogue"


def test_bonuses_are_at_most_half_of_the_advantage():
    view = View(
        lengths=np.array([2, 1]),
        sequences=[types.SimpleNamespace(subgroup=label) for label in ("noisy", "plain")],
        scores={"present": np.array([-1.0, -1.0, -1.0]), "noisy": np.array([-1.3, -4.0, -1.3])},
        arrays={"advantages": np.array([1.0, 1.0, -2.0])},
        entropy=lambda label: np.array([0.5, 2.0, 3.0]),
    )
    found = config_module(RECIPE).with_bonus(view, None)
    np.testing.assert_allclose(found, [1 + 0.09 + 0.2, 1 + 0.5 + 0.5, -2 + 1.0], atol=1e-6)


def script(episode):
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(script, varied=("correct", "divergence"))
