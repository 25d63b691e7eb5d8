"""Where the final answer of a response stands."""

from __future__ import annotations

import time

import pytest

from pixel_reasoner_jax.rewards import answer_reward, extract_answer


@pytest.mark.parametrize(
    "response,answer",
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} no, \boxed{\frac{1}{2}} .", r"\frac{1}{2}"),
        (r"\boxed{\text{a {b} c}}", r"\text{a {b} c}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{kept} and \boxed{never closed", "kept"),
        (r"\boxed{}", ""),
        (r"Answer: 4 <answer> 5 </answer>", "5"),
        (r"<answer>1</answer> <answer>2</answer> <answer>", "2"),
        (r"\boxed{3} <answer>5</answer>", "3"),
        ("The Answer: 5\nbecause", "5"),
        ("**Answer:** B. red", "B. red"),
        ("answer: 1\nAnswer : 2", "2"),
        ("I do not know", None),
        ("</answer><answer>", None),
        ("", None),
        ("\\\\boxed{A}", "A"),
        ("Answer:\ncat", "cat"),
        ("<think>so</think><action>output answer: B. red</action>", "B. red"),
        ("**Final Answer**: (A)", "(A)"),
        (r"\boxed{A", None),
    ],
)
def test_extraction(response, answer):
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{" * 150_000,
        "\\boxed{" + "a" * 1_000_000 + "}",
        "\\boxed{" + "{" * 500_000 + "}" * 500_000 + "}",
        "<answer>" * 130_000 + "</answer>",
        "answer " * 150_000,
        "answer:" * 150_000,
        "answer" + " " * 1_000_000,
        "\\" * 1_000_000,
        "\x00" * 1_000_000,
    ],
    ids=range(9),
)
def test_a_megabyte_is_read_in_linear_time(response):
    start = time.monotonic()
    assert answer_reward(response, "5") == 0.0
    assert time.monotonic() - start < 30  # quadratic time would be minutes
