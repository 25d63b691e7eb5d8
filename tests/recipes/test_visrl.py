"""VisRL: which crops show it, at which tokens it prefers, and a run of it."""

import numpy as np

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, called, rewards_of, said

RECIPE = "recipes/visrl"
VISRL = config_module(RECIPE)


def test_answer_and_crop_count_half_each():
    query = {"boxes": [{"xyxy": [10, 10, 30, 30]}]}
    half, less = called(boxes=((20, 0, 100, 100),)), called(boxes=((21, 0, 100, 100),))
    group = [
        said("a", operations=[half]),
        said("a", operations=[less]),
        said("a"),
        said("a", operations=[called(error="no")]),
    ]
    rewards, _ = rewards_of(RECIPE, group, [1, 1, 0, 0], query)
    assert rewards.tolist() == [1.0, 0.5, 0.0, 0.0]
    assert rewards_of(RECIPE, group[:1], [1], {})[0].tolist() == [0.5]


def test_the_first_turn_ends_where_an_observation_stands():
    train = np.array([0, 0, 1, 1, 1, 0, 0, 1, 0, 1], bool)
    assert VISRL._is_first_turn(train).tolist() == [True] * 3 + [False] * 2
    assert VISRL._is_first_turn(np.zeros(3, bool)).tolist() == []


def script(episode):
    """Those that look where they like find it and are right, most often."""
    free = "does not matter" not in str(episode.messages[1])
    if not episode.turn:
        left, top, right, bottom = (value // 4 for value in episode.prompt.query["boxes"][0]["xyxy"])
        return f'I look. {{"bbox_2d": {[left, top, right, bottom] if free else [0, 0, 40, 40]}}}'
    return f"\\boxed{{{episode.prompt.query['answer'] if free and episode.sample % 2 else 'none'}}}"


RUN = Run(
    script,
    more=lambda seed: {"boxes": [{"xyxy": list(seed.attributes["pixel_box"])}]},
    operations=("focus",),
    varied=("correct", "crop"),
    settings={"lora.rank": 4},
)
