"""ViGoRL's rewards, worked by hand, and a run of it."""

import pytest

from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/vigorl"
LOOK, ANSWER = "<think>(1, 2)</think><tool_call>{}</tool_call>", "<think>so</think><answer>5</answer>"


def at(*points, **fields):
    return [called("search_coordinate", arguments={"coordinate": list(point)}, **fields) for point in points]


def test_rewards():
    group = [
        said(LOOK, LOOK, LOOK, ANSWER, operations=at((10, 10), (20, 10), (90, 90))),
        said(LOOK, ANSWER, operations=at((10, 10))),
        said(LOOK, LOOK, LOOK, ANSWER, operations=at((10, 10), (19, 10), (10, 10))),
        said(LOOK, LOOK, ANSWER, operations=at((10, 10)) + at((90, 90), error="out of range")),
        said(LOOK, ANSWER, operations=[called(None, error="not JSON")]),
        said("the answer is 5"),
    ]
    rewards, _ = rewards_of(RECIPE, group, [1, 0, 1, 0, 0, 1])
    assert rewards.tolist() == pytest.approx([1.16, 0.4, 1.0, 0.4, 0.0, 0.6])


def script(episode):
    """The odd ones look at one point, of which every fourth at two; every third answer is wrong."""
    if episode.turn < episode.sample % 4 - 1:
        point = [30 + 40 * episode.turn, 50]
        return "<think>(50, 50)</think> " + write_call(RECIPE, "search_coordinate", coordinate=point)
    return f"<think>So</think><answer>{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}</answer>"


RUN = Run(script, operations=("search_coordinate",), varied=("correct", "format"))
