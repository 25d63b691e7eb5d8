"""Curr-ReFT's rewards, worked by hand, and a run of it."""

import dataclasses

import pytest

from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/curr_reft"


def scores(answers, reference, correct=0, **query):
    group = [dataclasses.replace(said(f"<answer>{answer}</answer>"), reference=reference) for answer in answers]
    return rewards_of(RECIPE, group, [correct] * len(group), query)[0].tolist()


def test_choices():
    answers = "A, C", "C and A", "(c)(a)", "AC", "A", "A, B, C", "A, A, C", "", "all", "A C " * 10_000
    assert scores(answers, "A,C", 1, answer_type="choice") == [1] * 4 + [0] * 6
    assert scores(["B", "C"], ["A", "B"], answer_type="choice") == [1, 0]


def test_boxes():
    answers = "[0, 0, 10, 6]", "[0, 0, 10, 5]", "[0, 0, 10, 10] [5, 5, 6, 6]", "there"
    assert scores(answers, "x", 1, answer_type="box", boxes=[[0, 0, 10, 10]]) == [1, 0, 0, 0]
    assert scores(answers, "x", 1, answer_type="box") == [0] * 4


def test_labels():
    answers = "cat, Dog", "dog, cat, cow", "cat", "cow", "", ",".join(map(str, range(1000))) + ",cat,dog"
    assert scores(answers, "Cat,  dog", answer_type="labels") == pytest.approx([1, 2 / 3, 0.5, 0, 0, 0])


def test_others_are_compared_as_usual():
    assert scores(["yes"], "yes", 1) == [1] and scores(["yes"], "no", 0, answer_type="yes_no") == [0]
    group = [said("<think>So.</think><answer>yes</answer>")]
    assert rewards_of(RECIPE, group, [1])[0].tolist() == [2]


def script(episode):
    """Right, half right, wrong, or without form."""
    query = episode.prompt.query
    if query.get("answer_type") == "box":
        left, top, right, bottom = (side / 4 for side in query["boxes"][0])
        right_one, near = f"[{left}, {top}, {right}, {bottom}]", "[0, 0, 1, 1]"
    else:
        right_one, near = query["answer"], f"{query['answer'].partition(',')[0]}, none"
    answer = (right_one, near, "none", right_one)[episode.sample]
    return f"<answer>{answer}</answer>" if episode.sample == 3 else f"<think>So.</think><answer>{answer}</answer>"


def more(seed):
    """Digits, letters, boxes and labels, in turn."""
    kind = int(seed.id[-1]) % 4
    if kind == 1:
        return {"answer_type": "box", "boxes": [list(seed.attributes["pixel_box"])]}
    answers = {0: seed.answer, 2: f"{'ABCDEF'[int(seed.answer)]}", 3: f"box, {seed.attributes['color']}"}
    return {"answer": answers[kind], "answer_type": ("number", "", "choice", "labels")[kind]}


RUN = Run(script, more=more, varied=("correct", "format"))
