"""VLM-R1's rewards, worked by hand, and a run of it."""

import json

import pytest

from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/vlm_r1"


def answered(answer, form="<think>So.</think>\n<answer>{}</answer>"):
    return said(form.format(answer))


def boxes(*found):
    return json.dumps([{"bbox_2d": box, "label": "cat"} for box in found])


def test_referring():
    group = [
        answered('{"bbox_2d": [0, 0, 100, 80]}'),
        answered('{"bbox_2d": [0, 0, 100, 80]}', "<answer>{}</answer>"),
        answered("there"),
        answered('{"bbox_2d": [100, 100, 0, 0]}'),
    ]
    rewards, _ = rewards_of(RECIPE, group, [1, 1, 1, 1], {"boxes": [[0, 0, 100, 100]]})
    assert rewards.tolist() == pytest.approx([1.8, 0.8, 0, 1])


def test_detection():
    right, near = [0, 0, 100, 100], [0, 0, 100, 80]
    group = [*map(answered, (boxes(right), boxes(near), boxes(near, *[[200, 200, 300, 300]] * 3), "[]", ""))]
    query = {"boxes": [{"bbox_2d": right, "label": "Cat"}], "answer_type": "boxes"}
    _, terms = rewards_of(RECIPE, group, [1] * 5, query)
    assert terms["correct"].tolist() == pytest.approx([1, 0.7, 0.7 / 4, 0, 0])
    rewards, terms = rewards_of(RECIPE, group[2:] + [said("none")], [1] * 4, {"boxes": [], "answer_type": "boxes"})
    assert terms["correct"].tolist() == [0, 1, 1, 0] and rewards.tolist() == [1, 2, 1, 0]


def script(episode):
    """Referring or detection; right, in part, one box too much, or without form."""
    query = episode.prompt.query
    left, top, right, bottom = (side / 4 for side in query["boxes"][0]["bbox_2d"])
    box = [left, top, right, bottom - 5 * (episode.sample % 2)]
    found = [{"bbox_2d": one, "label": "box"} for one in ([box, [0, 0, 1, 1]] if episode.sample == 2 else [box])]
    answer = json.dumps(found if "answer_type" in query else found[0])
    return answer if episode.sample == 3 else f"<think>So.</think><answer>{answer}</answer>"


def more(seed):
    boxes = [{"bbox_2d": list(seed.attributes["pixel_box"]), "label": "box"}]
    return {"boxes": boxes} | ({"answer_type": "boxes"} if seed.id[-1] in "13579" else {})


RUN = Run(script, more=more, varied=("correct", "format"))
