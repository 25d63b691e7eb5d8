"""Options are shown with letters, and an answer by letter or by text is the line of its option."""

import pytest

from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.query import check_query
from pixel_reasoner_jax.rewards.answers import accepted
from pixel_reasoner_jax.rollout.choices import with_choices
from pixel_reasoner_jax.rollout.prompt import Prompt

SHOWN = "Which colour?\nA. red\nB. blue"


@pytest.mark.parametrize("options", [["red", "blue"], ["A. red", "(B) blue."], {"A": "red", "B": "blue"}])
@pytest.mark.parametrize("answer", ["B", "b", "(B)", "blue", "B. blue", "blue."])
def test_options_are_shown_and_the_answer_is_one_of_them(options, answer):
    assert with_choices("Which colour?", answer, options) == (SHOWN, "B. blue")
    assert {"B", "blue"} < set(accepted("B. blue"))


def test_what_stays_as_it_is():
    assert with_choices("Red or blue?", "blue", ["red", "blue"]) == ("Red or blue?", "blue")
    assert with_choices("Which?", "x", None) == with_choices("Which?", "x", []) == ("Which?", "x")
    for other in ("green", "C", "A. blue", "AB", 7):
        assert with_choices("Which colour?", other, ["red", "blue"]) == (SHOWN, other)
    assert with_choices("Which colour?", ["A", "green"], ["red", "blue"]) == (SHOWN, ["A. red", "green"])
    assert with_choices("Which?", "B", {"1": "one", "2": "two"}) == ("Which?\n1. one\n2. two", "B")


def test_a_prompt_shows_them(policy):
    query = check_query({"id": "a", "question": "Which colour?", "answer": "blue", "options": ["red", "blue"]})
    prompt = Prompt.build(query, policy.processor, None, "", PictureStore())
    assert prompt.messages[-1]["content"][-1]["text"] == SHOWN and prompt.query["answer"] == "B. blue"
