"""Forms of responses, of ones that keep them, break them, and try to make reading them slow."""

import pytest

from pixel_reasoner_jax.rewards.formats import answers_in_tags, contents, has_one, thinks_and_answers, turns_of
from tests.recipes.scripted import said


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("<a>1</a> and <a>2</a>", ["1", "2"]),
        ("<a><b>1</b></a>", ["<b>1</b>"]),
        ("<a>1", None),
        ("1</a>", None),
        ("<a>1</a></a>", None),
        ("<a><a>1</a></a>", None),
        ("<a>1</a><a>", None),
    ],
)
def test_contents_of_tags(text, expected):
    assert contents(text, "a") == expected


def test_each_tag_once_in_order():
    assert has_one("<a>1</a> <b>2</b>", "a", "b")
    for text in ("<b>2</b><a>1</a>", "<a>1<b>2</b></a>", "<a> </a><b>2</b>", "<a>1</a>", "<a>1</a><a>1</a><b>2</b>"):
        assert not has_one(text, "a", "b"), text


def test_a_response_thinks_in_every_turn_and_answers_in_the_last():
    look, answer = "<think>a</think><call>x</call>", "<think>b</think><answer>5</answer>"
    assert turns_of(said(look, answer)) == [look, answer]
    assert thinks_and_answers(said(answer)) and thinks_and_answers(said(look, answer))
    assert thinks_and_answers(said(look, answer), calls=("other", "call"))
    for turns in ((look,), (answer, answer), (answer, look), ("<call>x</call>", answer), (look, "<answer>5</answer>")):
        assert not thinks_and_answers(said(*turns)), turns
    assert not thinks_and_answers(said("<think>a</think>", answer), calls=("call",))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<answer> 5 </answer>", True),
        ("<answer>\\boxed{5}</answer>", True),
        ("<answer>the answer: 5</answer>", True),
        ("\\boxed{5}", False),
        ("\\boxed{5} <answer>4</answer>", False),
        ("<answer>4</answer><answer>5</answer>", False),
    ],
)
def test_the_answer_that_counts_is_in_its_tags(text, expected):
    assert answers_in_tags(said(text)) is expected


@pytest.mark.parametrize(
    "text", ["<think>" * 50_000, "</answer>" * 50_000, "<answer>" * 50_000 + "</answer>" * 50_000, "<" * 300_000]
)
def test_hostile_texts_are_read(text):
    assert not thinks_and_answers(said(text)) and not answers_in_tags(said(text))
