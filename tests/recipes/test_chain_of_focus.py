"""Chain-of-Focus's rewards, worked by hand, and a run of it."""

import pytest

from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/chain_of_focus"


def test_rewards():
    group = [
        said("<think>look</think>", "<think>a 5</think><answer>5</answer>", operations=[called()]),
        said("<think>it is</think><answer>5</answer>"),
        said("<think>it is<answer>5</answer>"),
        said("<think>no</think><answer>4</answer>"),
        said("<think>no</think>4"),
        said(f"<think>long</think><answer>{'5 ' * 1001}</answer>"),
    ]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 1, 0, 0, 1])
    assert rewards.tolist() == pytest.approx([1.0, 1.0, 0.9, 0.1, 0.0, 0.9])
    assert terms["format"].tolist() == [1, 1, 0, 1, 0, 0]


def script(episode):
    """Every other response looks first; every third one is wrong, and every fourth has no thought."""
    if episode.sample % 2 and not episode.turn:
        return "<think>I look.</think> " + write_call(RECIPE, "image_zoom_in_tool", bbox_2d=[10, 10, 90, 90])
    answer = episode.prompt.query["answer"] if episode.sample % 3 else "none"
    return f"{'<think>It is</think>' if episode.sample % 4 else ''}<answer>{answer}</answer>"


RUN = Run(script, operations=("image_zoom_in_tool",), varied=("correct", "format"))
