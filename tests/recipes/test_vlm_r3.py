"""VLM-R3's rewards, worked by hand, and a run of it."""

import pytest

from pixel_reasoner_jax.operations.zoom import by_area
from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/vlm_r3"


def test_rewards():
    box, other = (0, 0, 50, 50), (50, 50, 99, 99)
    looked = [called(boxes=(box,)), called(boxes=(other,)), called(boxes=(box,)), called(error="no")]
    answer = "</think><answer>5</answer>"  # 26 characters
    group = [
        said("<think>a", answer, operations=looked),
        said("<think>a", answer, operations=looked),
        said("<think>" + "a" * 967 + answer),
        said("<think>5"),
    ]
    rewards, terms = rewards_of(RECIPE, group, [1, 0, 1, 0])
    assert rewards.tolist() == pytest.approx([1 + 1 + 0.034 + 1.0, 1 + 0.034, 1 + 1 + 0.25, 0.008])
    assert terms["region"].tolist() == [2, 0, 0, 0]
    assert by_area((50, 25), (80, 50)) == pytest.approx(1.5)  # the share 0.3125


def script(episode):
    """Every other response looks first; every third one is wrong."""
    if episode.sample % 2 and not episode.turn:
        return "<think>I look. " + write_call(RECIPE, "crop_box", bbox_2d=[10, 10, 90, 90])
    answer = episode.prompt.query["answer"] if episode.sample % 3 else "none"
    return f"{'' if episode.turn else '<think>'}It is</think><answer>{answer}</answer>"


RUN = Run(script, operations=("crop_box",), varied=("correct", "length", "region"))
