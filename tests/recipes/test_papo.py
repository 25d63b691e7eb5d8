"""PAPO's term and its derivatives, and a run of it."""

import numpy as np

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, View

RECIPE = "recipes/papo"


def test_the_term_and_its_derivatives():
    present, masked, step = np.array([-1.0, -1.0, -0.1]), np.array([-3.0, -0.5, -60.0]), 1e-6

    def values(present, masked):
        return config_module(RECIPE).perception(View(scores=dict(present=present, masked=masked)), None)

    made, d = values(present, masked), np.array([-2.0, 0.5, -20.0])
    np.testing.assert_allclose(made.values, -(np.exp(d) - d - 1))
    assert abs(made.values[0] + 1.1353) < 1e-4
    for name, changed in (("present", (present + step, masked)), ("masked", (present, masked + step))):
        slopes = (values(*changed).values - made.values) / step
        np.testing.assert_allclose(made.slopes[name], slopes, atol=1e-5)


def script(episode):
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(script, varied=("correct", "aux_perception"))
