"""ViSurf: the gold response's reward under control, and a run of it."""

import numpy as np

from pixel_reasoner_jax.packaged_configs import config_module
from pixel_reasoner_jax.training.advantages import GroupRewards
from tests.recipes.scripted import Run

RECIPE = "recipes/visurf"


def test_the_gold_response_teaches_where_no_other_is_as_good():
    labels = np.array(["sampled"] * 4 + ["gold"])
    total = np.array([[0.0, 0, 0, 0, 1], [1, 0, 0, 0, 1]])
    found = config_module(RECIPE).with_control(GroupRewards(total, labels=labels))
    np.testing.assert_allclose(found[0], [-0.4472] * 4 + [1.7889], atol=1e-4)
    own = np.array([1, 0, 0, 0, 0.25])
    np.testing.assert_allclose(found[1], (own - 0.25) / own.std(ddof=1), atol=1e-5)
    assert abs(found[1, 4]) < 1e-6
    assert total[1, 4] == 1  # what was given is as it was


def script(episode):
    """One is right about every other query."""
    is_right = episode.sample == 3 and int(episode.prompt.id[-1]) % 2
    return f"\\boxed{{{episode.prompt.query['answer'] if is_right else 'none'}}}"


RUN = Run(
    script,
    more=lambda seed: {"gold_response": f"It is \\boxed{{{seed.text_answer}}}."},
    varied=("correct", "accuracy"),
)
