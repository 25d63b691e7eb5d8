"""V-ToolRL's rewards, worked by hand, and a run of it."""

import json

import pytest

from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/vtoolrl"


def turn(name="Terminate", thought="so", **arguments):
    return json.dumps({"thought": thought, "actions": [{"name": name, "arguments": arguments}]})


def test_rewards():
    line = turn("DrawHorizontalLineByY", image="img_1", param="y=50")
    group = [
        said(line, turn(ans="\\boxed{5}"), operations=[called()]),
        said("not JSON", f"```json\n{turn(ans='<answer>5</answer>')}\n```", operations=[called(error="no")]),
        said(turn(ans="\\boxed{4}")),
        said("\\boxed{5}"),
        said(turn("Other", thought="\\boxed{5}")),
        said(turn(thought="\\boxed{5}", ans="\\boxed{4}") + "\\boxed{5}"),
        said(turn(ans=["\\boxed{5}" * 20])),
        said("[" * 50_000),
    ]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 0, 1, 1, 1, 1, 0])
    assert rewards.tolist() == [1, 1, 0, 0, 0, 0, 1, 0]
    assert terms["form"].tolist() == pytest.approx([1, 0.5, 1, 0, 1, 0, 1, 0])


def script(episode):
    """Every other response draws a line first, one of them in no form; every third one is wrong."""
    if episode.sample % 2 and not episode.turn:
        return write_call(RECIPE, "DrawHorizontalLineByY", image="img_1", param="y=50")
    if episode.sample % 2 and episode.turn == 1:
        return write_call(RECIPE, "DrawVerticalLineByX", image="img_2", param="x=50")
    answer = episode.prompt.query["answer"] if episode.sample % 3 else "none"
    return turn(ans=f"\\boxed{{{answer}}}") if episode.sample != 2 else f"\\boxed{{{answer}}}"


RUN = Run(script, operations=("DrawHorizontalLineByY", "DrawVerticalLineByX"), varied=("correct", "form"))
