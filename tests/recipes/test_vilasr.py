"""ViLaSR's rewards, worked by hand, and a run of it."""

import pytest

from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/vilasr"
DRAW = '<think>a</think>\nAction: draw_boxes\n```json\n[{"bbox_2d": [1, 2, 30, 40]}]\n```'


def answer(text):
    return f"<think>b</think><answer>{text}</answer>"


def test_rewards():
    group = [
        said(DRAW, answer(10), operations=[called()]),
        said(answer(9)),
        said(DRAW, answer(9), operations=[called(None, error="not JSON")]),
        said("<answer>10</answer>"),
        said(answer(20)),
        said(answer("nine")),
    ]
    rewards, terms = rewards_of(RECIPE, group, [1, 0, 0, 1, 0, 0], {"answer": "10"})
    assert terms["correct"].tolist() == pytest.approx([1, 0.8, 0, 1, 0, 0])
    assert rewards.tolist() == pytest.approx([1.0, 0.9, 0.0, 0.5, 0.0, 0.0])


def test_a_choice_is_right_or_wrong():
    for query in ({"answer": "10", "options": ["10", "9"]}, {"answer": ["10", "ten"]}, {"answer": "A. 10"}):
        assert rewards_of(RECIPE, [said(answer(9)), said(answer(10))], [0, 1], query)[0].tolist() == [0, 1]


def script(episode):
    """Every other response draws first; every third is wrong by a little, and one does not think."""
    if episode.sample % 2 and not episode.turn:
        box = [{"bbox_2d": [10, 10, 90, 90], "label": "a"}]
        return "<think>I draw.</think>\n" + write_call(RECIPE, "draw_boxes", boxes=box)
    if episode.sample % 2 and episode.turn == 1:
        line = [{"start_point_2d": [10, 10], "end_point_2d": [90, 90], "label": "b", "index": 1}]
        return "<think>I draw.</think>\n" + write_call(RECIPE, "draw_lines", lines=line)
    right = int(episode.prompt.query["answer"])
    thought = "<think>So</think>" if episode.sample != 2 else ""
    return f"{thought}<answer>{right if episode.sample % 3 else right * 1.1 + 0.1}</answer>"


RUN = Run(script, operations=("draw_boxes", "draw_lines"), varied=("correct", "format"))
