"""The released Pixel Reasoner's rewards, worked by hand, and a run of it."""

import dataclasses
import types

import pytest

from pixel_reasoner_jax.config import load_config
from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/pixel_reasoner_release"


def test_it_is_the_release():
    base = load_config("rl_release_7b")
    base.workdir = load_config(RECIPE).workdir
    assert load_config(RECIPE).to_json_best_effort() == base.to_json_best_effort()


@pytest.mark.parametrize("kind,bonus", [("image", 0.175), ("video", 0.7 / 3)])
def test_rewards(kind, bonus):
    """Calls that failed count."""
    medium = types.SimpleNamespace(kind=kind)
    group = [said("look", "look", "look", "\\boxed{5}", operations=[called(error="no")] * 3)] + [said("\\boxed{5}")] * 7
    group = [dataclasses.replace(one, media=[medium]) for one in group]
    rewards, terms = rewards_of(RECIPE, group, [0] + [1] * 7)
    assert (terms["bonus"][0], terms["penalty"][0]) == pytest.approx((bonus, -0.1))
    assert rewards.tolist() == pytest.approx([bonus - 0.1] + [1.0] * 7)


def script(episode):
    """One response of four looks, twice in every other query; every other one is right."""
    number = int(episode.prompt.id[-1])
    if episode.sample == 0 and episode.turn <= number % 2:
        box = [0.1, 0.1, 0.5, 0.5]
        return "I look. " + write_call(RECIPE, "crop_image_normalized", bbox_2d=box, target_image=1)
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 2 else 'none'}}}"


RUN = Run(script, operations=("crop_image_normalized",), varied=("correct", "bonus", "penalty"))
