"""ViRL's rewards and credit, worked by hand, and a run of it."""

import dataclasses

import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.training.credit import find_credit
from tests.recipes.scripted import Run, called, responses_of, rewards_of, said, write_call

RECIPE = "recipes/virl"
QUERY = {"boxes": [{"xyxy": [0, 0, 10, 10]}, {"xyxy": [50, 50, 60, 60]}]}


def zooms(*boxes):
    return [called(turn=turn, boxes=(box,)) for turn, box in enumerate(boxes)]


def test_rewards():
    group = [
        said("5", operations=zooms((0, 0, 10, 6), (50, 50, 60, 60))),  # both are right
        said("5", operations=zooms((0, 0, 10, 10), (0, 0, 10, 9), (20, 20, 30, 30), (20, 20, 30, 31))),
        said("5", operations=[called(error="too small")]),
        said("5"),
    ]
    rewards, terms = rewards_of(RECIPE, group, [1, 0, 1, 1], QUERY)
    assert terms["steps"].tolist() == pytest.approx([1.0, (1 - 0.2 - 0.5 - 0.2) / 4, -0.5, 0.0])
    assert rewards.tolist() == pytest.approx([1.5, 0.0125, 0.75, 1.0])
    assert rewards_of(RECIPE, group, [1, 0, 1, 1], {"boxes": "none"})[1]["steps"][0] == -0.5


def test_credit_of_turns():
    """Of a response with two turns: a call's of two tokens, then an observation of one and an answer of one."""
    one = dataclasses.replace(said("look", "5", operations=zooms((0, 0, 10, 10))), source=np.array([0, 1, 1, 2, 1]))
    group = [one, dataclasses.replace(one, operations=zooms((90, 90, 99, 99))), dataclasses.replace(one, operations=[])]
    responses = responses_of(RECIPE, group, [1, 0, 0], QUERY)
    credit = find_credit(load_config(RECIPE).grpo.credit, responses, np.array([[0.5, -0.25, -0.25]]))
    own = 0.3 * 0.75 / np.std([1, -0.5], ddof=1)  # 0.2121
    expected = [[0.5, 0.5 + own, 0.5 + own, 0.5, 0.5], [-0.25, -0.25 - own, -0.25 - own, -0.25, -0.25], [-0.25] * 5]
    assert np.array(credit[0]) == pytest.approx(np.array(expected))


def test_one_operation_of_a_group_has_no_credit_of_its_own():
    group = [said("5", operations=zooms((0, 0, 10, 10))), said("4")]
    [credit] = find_credit(
        load_config(RECIPE).grpo.credit, responses_of(RECIPE, group, [1, 0], QUERY), np.array([[1, -1]])
    )
    assert [set(tokens.tolist()) for tokens in credit] == [{1.0}, {-1.0}]


def script(episode):
    """Odd responses zoom into the box, and the third again; every third answer is wrong."""
    if episode.turn < (0, 1, 0, 2)[episode.sample]:
        left, top, right, bottom = (side / 4 for side in episode.prompt.query["boxes"][0])
        return "I look. " + write_call(RECIPE, "image_zoom_in_tool", bbox_2d=[left - 1, top - 1, right + 1, bottom + 1])
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(
    script,
    more=lambda seed: {"boxes": [list(seed.attributes["pixel_box"])]},
    operations=("image_zoom_in_tool",),
    varied=("correct", "steps"),
)
