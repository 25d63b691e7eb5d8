"""Reason-RFT's rewards, worked by hand, and a run of it."""

import dataclasses

import pytest

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/reason_rft"


def answered(answer, reference="10", form="<think>So.</think>\n<answer>{}</answer>"):
    return dataclasses.replace(said(form.format(answer)), reference=reference)


def test_rewards_of_numbers():
    group = [*map(answered, ("10", "10.4", "11", "12.1", "ten"))] + [answered("11", form="<answer>{}</answer>")]
    rewards, terms = rewards_of(RECIPE, group, [1, 0, 0, 0, 0, 0], {"answer_type": "number"})
    assert terms["correct"].tolist() == pytest.approx([1, 1, 0.75, 0, 0, 0.75])
    assert rewards.tolist() == pytest.approx([2, 2, 1.75, 1, 1, 0.75])
    rewards, _ = rewards_of(RECIPE, group, [1, 0, 0, 0, 0, 0])
    assert rewards.tolist() == [2, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "answer,score",
    [
        ("change_color(1, red), change_size(2, small)", 1.0),
        ("[Change_Size( 2 , small ), change_color(1,red)]", 1.0),
        ("change_color(1, red)", 0.5),
        ("change_color(1, blue), change_size(3, small)", 0.5),
        ("change_color(3, blue)", 0.125),
        ("change_color(1, red), change_color(1, red)", 0.25),  # half of the longer list, half of them repeated
        ("change_color(1, red), change_size(2, small), move(0, left)", 2 / 3),
        ("nothing", 0.0),
        ("move(0, left) " * 60, 0.0),
        ("f(" * 100_000, 0.0),
    ],
)
def test_transformations(answer, score):
    shared = config_module(RECIPE).shared_transformations
    assert shared(answer, "change_color(1, red), change_size(2, small)") == pytest.approx(score)


def script(episode):
    """Half, nearly or not right; one has no form."""
    right = int(episode.prompt.query["answer"])
    answer = (right, right + 0.1 * right, 99, right)[episode.sample]
    return f"<answer>{answer:g}</answer>" if episode.sample == 3 else f"<think>Hm.</think><answer>{answer:g}</answer>"


RUN = Run(script, more=lambda seed: {"answer_type": "number"}, varied=("correct", "format"))
