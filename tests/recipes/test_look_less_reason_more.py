"""Look Less, Reason More: what its three sub-groups earn, worked by hand, and a run of it."""

import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.rollout.subgroups import Subgroups
from pixel_reasoner_jax.training.collecting import Collected
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.grpo import reward_groups
from tests.recipes.scripted import Run, called, said, write_call

RECIPE = "recipes/look_less_reason_more"


@pytest.mark.parametrize(("forbidden_right", "needed"), [(0, True), (4, False)])
def test_rewards_and_advantages_of_each_subgroup(forbidden_right, needed):
    """Four told not to look (one disobeys), four told to (three right, one disobeys), eight free."""
    config = load_config(RECIPE)
    looks = [called()]
    group = [said("a")] * 3 + [said("a", operations=[called(error="refused: max_operations")])]
    group += [said("a", operations=looks)] * 3 + [said("a")]
    group += [said("a", operations=looks)] * 4 + [said("a")] * 4
    correct = [1] * forbidden_right + [0] * (4 - forbidden_right) + [1, 1, 1, 0] + [1, 1, 0, 0] * 2
    collected = Collected([{}], [group], np.array([correct], float), np.ones((1, 16), bool))
    rewarded = reward_groups(collected, config, CuriosityState(0, 0), None, Subgroups.of(config.rollout))
    told_not_to = np.array(correct[:4]) + [0.5, 0.5, 0.5, 0.0]
    looked, thought = (1.5, 1.15) if needed else (1.15, 1.5)
    expected = [*told_not_to, 1.5, 1.5, 1.5, 0.0, looked, looked, 0, 0, thought, thought, 0, 0]
    np.testing.assert_allclose(rewarded.rewards[0], expected)
    for columns in (slice(0, 4), slice(4, 8), slice(8, 16)):
        own = np.array(expected[columns], float)
        np.testing.assert_allclose(
            rewarded.advantages[0, columns], (own - own.mean()) / (own.std(ddof=1) + 1e-6), rtol=1e-5
        )
    assert rewarded.metrics()["rapr"] == 0.5


def script(episode):
    forced = "must zoom" in str(episode.messages[1])
    if (forced or episode.sample % 2) and not episode.turn:
        return "I look. " + write_call(RECIPE, "zoom_image", bbox_2d=[10, 10, 90, 90], target_image=1)
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(script, operations=("zoom_image",), varied=("correct", "obeyed", "aligned"))
