"""PEARL: its checklist, what gates and weighs reasoning, and a run of it."""

import numpy as np
import pytest

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, responses_of, said

RECIPE = "recipes/pearl"
PEARL = config_module(RECIPE)
ITEMS = [{"q": "Which colour is the box?", "a": "red"}, {"q": "How many boxes?", "a": "3"}]


def test_a_checklist_is_one_question_and_its_lines_are_scored():
    query = {"id": "q", "question": "?", "answer": "5", "options": ["5", "6"], "checklist": ITEMS}
    asked = PEARL.checklist(query, [])
    assert asked["question"] == "1. Which colour is the box?\n2. How many boxes?" and asked["options"] is None
    assert PEARL.checklist({"id": "q", "question": "?"}, []) is None
    for text, share in (
        ("1. red\n2. 3", 1.0),
        ("1. Red\n2) 4", 0.5),
        ("red, 3", 0.0),
        ("2: 3\n1: blue", 0.5),
        ("", 0.0),
    ):
        assert PEARL.share_right(said(text), asked) == share
    assert PEARL.share_right(said("1. " + "x" * 10**6 + "\n" * 10**6), asked) == 0.0


@pytest.mark.parametrize(("right", "weight"), [(0.8, 0.5), (0.3, 0.3), (0.0, 0.0)])
def test_reasoning_weighs_as_much_as_looking_is_right(right, weight):
    labels = np.array(["checklist"] * 5 + ["reasoning"] * 5)
    given = responses_of(RECIPE, [said("a")] * 10, [right] * 5 + [1.0, 0, 0, 0, 0], labels=labels)
    found = PEARL.weigh(given, np.full((1, 10), 2.0))
    np.testing.assert_allclose(found, [[0.2] * 5 + [2 * weight] * 5])


def script(episode):
    if "Which colour" in episode.prompt.query["question"]:
        return "1. red\n2. 3" if episode.sample % 2 else "1. no"
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


def more(seed):
    """In one of two, no checklist."""
    answers = [{"q": ITEMS[0]["q"], "a": seed.attributes["color"]}, ITEMS[1]]
    return {"checklist": answers} if int(seed.id[-1]) % 2 else {"checklist": [{"q": "Which colour is it?", "a": "?"}]}


RUN = Run(script, more=more, varied=("correct", "accuracy_checklist"))
