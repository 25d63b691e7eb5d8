"""Every scorer against cases worked out by hand from the published rules; ANLS against another computation."""

from __future__ import annotations

import functools
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.scorers import SCORERS, find_scorer
from pixel_reasoner_jax.evaluation.scorers.similarity import anls, anls_exclusive, anls_raw, edit_distance
from pixel_reasoner_jax.evaluation.scorers.vqa import vqa_text


def choice(*options: str, right: str) -> Item:
    return Item("1", "Which one?", options, "ABCDE".index(right))


def answers(*texts: str) -> Item:
    return Item("1", "What is it?", answers=texts)


COLOURS_B = choice("red", "green", "blue", "white", right="B")
COLOURS_A = choice("red", "green", "blue", "white", right="A")
COLOURS_C = choice("red", "green", "blue", "white", right="C")
SIDES_B = choice("the dog is on the left", "the dog is on the right", right="B")
AMOUNTS_A = choice("10", "10%", right="A")
FIVE_E = choice("a van", "a car", "a bus", "a bike", "not in the image", right="E")

LETTERS = {
    "choice": [
        ("\\boxed{B}", COLOURS_B, 1), ("\\boxed{(B)}", COLOURS_B, 1), ("<answer>B. green</answer>", COLOURS_B, 1),
        ("It is green.\nAnswer: green", COLOURS_B, 1), ("I think so.\nB", COLOURS_B, 1), ("\\boxed{b}", COLOURS_B, 1),
        ("\\boxed{B. red}", COLOURS_B, 0),  # the letter and the text must agree
        ("\\boxed{A, B}", COLOURS_B, 0), ("\\boxed{A}", COLOURS_B, 0), ("", COLOURS_B, 0), ("\\boxed{}", COLOURS_B, 0),
        ("\\boxed{red or green}", COLOURS_B, 0), ("\\boxed{The dog is on the right.}", SIDES_B, 1),
        ("\\boxed{the dog is on the left}", SIDES_B, 0),
        ("\\boxed{10%}", AMOUNTS_A, 0),  # it is another option's text, though the numbers are equal
        ("\\boxed{10}", AMOUNTS_A, 1), ("\\boxed{Z}", COLOURS_B, 0),
        ("\\boxed{B}", choice("same", "same", "other", right="A"), 1),  # two options alike: either is right
        ("\\boxed{0.5}", choice("\\frac{1}{2}", "\\frac{1}{3}", right="A"), 1),
    ],
    "lmms-eval-letter": [
        ("B", COLOURS_B, 1), ("b", COLOURS_B, 1), ("(B)", COLOURS_B, 1), ("B. green", COLOURS_B, 1),
        ("Based on the photo it is red", COLOURS_B, 1),  # a leading letter, of a word
        ("Answer: C", COLOURS_C, 0), ("Answer: C", COLOURS_A, 1),  # the A of "Answer" comes first
        ("The answer is C", COLOURS_C, 1), ("The answer is dark", choice("1", "2", "3", "4", right="D"), 1),
        ("it must be (C) since", COLOURS_C, 1), ("It is B]", COLOURS_B, 1), ("I choose C today", COLOURS_C, 1),
        ("xyz", COLOURS_B, 0), ("", COLOURS_B, 0), ("option B", COLOURS_B, 1), ("\\boxed{B}", COLOURS_B, 1),
    ],
    "vlmevalkit-letter": [
        ("B", COLOURS_B, 1), ("(B)", COLOURS_B, 1), ("B. green", COLOURS_B, 1), ("B is the right answer", COLOURS_B, 1),
        ("The answer is B", COLOURS_B, 1),
        ("B is what I see in this photo here", COLOURS_B, 0),  # not among the last five words, and no option's text
        ("A or B", COLOURS_B, 0), ("The answer is B, and not A", COLOURS_B, 1),
        ("it is green", COLOURS_B, 1), ("green, not blue", COLOURS_B, 0),
        ("it is green " + "and so on " * 9, COLOURS_B, 0),  # longer than twice the options together
        ("", COLOURS_B, 0), ("Cannot determine the answer: B", COLOURS_B, 0), ("\\boxed{B}", COLOURS_B, 1),
        ("b", COLOURS_B, 0), ("*B*", COLOURS_B, 1),
    ],
    "deepeyes": [
        ("B", COLOURS_B, 1), ("A", COLOURS_B, 0), ("B.", COLOURS_B, 1), (".B", COLOURS_B, 1), ("A.", COLOURS_B, 0),
        ("b", COLOURS_B, 0), ("B. green", COLOURS_B, 1), ("The answer is B. green, I think", COLOURS_B, 1),
        ("green", COLOURS_B, 0), ("(B)", COLOURS_B, 0), ("", COLOURS_B, 0), ("<answer>B</answer>", COLOURS_B, 1),
        ("\\boxed{B.}", COLOURS_B, 1),
    ],
    "deepeyes-first": [
        ("B", COLOURS_B, 1), ("Bananas", COLOURS_B, 1), ("A or B", COLOURS_B, 1), ("b", COLOURS_B, 0),
        ("A", COLOURS_B, 0), ("", COLOURS_B, 0), ("C. Blue", COLOURS_C, 1), ("C. Blue", COLOURS_B, 1),
        ("The Answer", COLOURS_A, 1), ("red", COLOURS_A, 0), ("(B)", COLOURS_B, 1),
    ],
    "chain-of-focus": [
        ("B", COLOURS_B, 1), ("(B)", COLOURS_B, 1), ("(A)", COLOURS_B, 0), ("B.", COLOURS_B, 1), ("A.", COLOURS_B, 0),
        ("B. green", COLOURS_B, 1), ("A. red", COLOURS_B, 0), ("( B )", COLOURS_B, 0), ("", COLOURS_B, 0),
        ("<answer>(B)</answer>", COLOURS_B, 1), ("green", COLOURS_B, 0),
    ],
    "mini-o3": [
        ("<answer>B</answer>", COLOURS_B, 1), ("<answer> B </answer>", COLOURS_B, 1), ("B", COLOURS_B, 0),
        ("<answer>A</answer> no: <answer>B</answer>", COLOURS_B, 1), ("<answer>B. green</answer>", COLOURS_B, 1),
        ("<answer>B</answer> no: <answer>A</answer>", COLOURS_B, 0), ("<answer>(B) green</answer>", COLOURS_B, 1),
        ("<answer>green</answer>", COLOURS_B, 0), ("<answer>B", COLOURS_B, 0), ("", COLOURS_B, 0),
        ("<answer>Blue</answer>", COLOURS_B, 0), ("\\boxed{B}", COLOURS_B, 0),
    ],
    "mvbench-authors": [
        ("", COLOURS_B, 1), ("(", COLOURS_B, 1), (")", COLOURS_B, 1), ("(b", COLOURS_B, 1), ("(B) green", COLOURS_B, 1),
        ("B", COLOURS_B, 1), ("B. green", COLOURS_B, 1), ("(A) red", COLOURS_B, 0), ("green", COLOURS_B, 0),
        ("The answer is B", COLOURS_B, 0), ("((B))", COLOURS_B, 1), ("a", COLOURS_B, 0),
    ],
    "mvbench-lmms-eval": [
        ("", COLOURS_B, None), ("B. green", COLOURS_B, 1), ("b. green", COLOURS_B, 1), ("(B) green", COLOURS_B, 1),
        ("The answer is B", COLOURS_B, 1), ("a dog, so B", COLOURS_B, 0),  # the article is an A
        ("a dog, so B", COLOURS_A, 1), ("green", COLOURS_B, 0), ("Best option: (B)", COLOURS_B, 1), (" ", COLOURS_B, 0),
        ("A-B", COLOURS_A, 1), ("Blue", COLOURS_B, 0), ("B\ngreen", COLOURS_B, 1),
    ],
    "mme-realworld": [
        ("B", COLOURS_B, 1), ("The best answer is B", COLOURS_B, 1), ("The answer is (C)", COLOURS_C, 1),
        ("Based on this it is red", COLOURS_B, 1), ("Answer: B", COLOURS_B, 0), ("Answer: B", COLOURS_A, 1),
        ("Best answer: B", COLOURS_B, 1),
        ("The best option is C", COLOURS_C, 1), ("East", FIVE_E, 1), ("East", COLOURS_B, 0),
        ("The correct option is: Exit", FIVE_E, 1), ("green", COLOURS_B, 1), ("gree", COLOURS_B, 1),
        ("", COLOURS_A, 1),  # contained in the first option
        ("", COLOURS_B, 0), ("it is not at all clear to me which of them it is", COLOURS_B, 0),
        ("purple", COLOURS_B, 0), ("<answer>B</answer>", COLOURS_B, 1),
    ],
    "mme-realworld-lmms-eval": [
        ("B", COLOURS_B, 1), ("Answer: B", COLOURS_B, 1), ("A B", COLOURS_B, 1), ("A B", COLOURS_A, 1),
        ("A", COLOURS_B, 0), ("green", COLOURS_B, 1), ("red", COLOURS_B, 0), ("", COLOURS_B, 0), ("", COLOURS_A, 1),
        ("The best answer is B", COLOURS_B, 1), ("Bananas", COLOURS_B, 1), ("East", FIVE_E, 1),
    ],
}  # fmt: skip

COUNTS = {
    "count": [
        ("\\boxed{5}", 1), ("\\boxed{five}", 1), ("2 dogs and 3 cats: 5", 1), ("\\boxed{5.0}", 1),
        ("There are 5 dogs.", 1),
        ("\\boxed{5 or 6}", 0), ("\\boxed{4 or 5}", 0), ("\\boxed{4-5}", 0), ("\\boxed{1, 2, 3, 4, 5}", 0),
        ("\\boxed{5.5}", 0), ("\\boxed{-5}", 0), ("\\boxed{25}", 0), ("\\boxed{}", 0), ("", 0),
        ("I see 5\nso it is 4", 0),
        ("\\boxed{3 + 2 = 5}", 1), ("<answer>5</answer>", 1), ("\\boxed{5th}", 0),
    ],
    "vlmevalkit-count": [
        ("5", 1), ("Five.", 1), ("5 dogs", 1), ("2 dogs and 3 cats: 5", 0), ("25", 0), ("There are 5, or 6", 1),
        ("", 0), ("none", 0), ("5.5", 1), ("fifteen", 0), ("the number is five", 1), ("\\boxed{5}", 1), ("21 or 5", 1),
    ],
    "big-vision-count": [
        ("5", 1), (" 5 ", 1), ("five", 1), ("Five", 1), ("5.", 0), ("5 dogs", 0), ("", 0), ("none", 0), ("5.0", 0),
        ("\\boxed{5}", 1), ("six", 0),
    ],
}  # fmt: skip

TEXTS = {
    "answer": [
        ("\\boxed{STOP}", answers("stop"), 1), ("\\boxed{go}", answers("stop"), 0), ("\\boxed{12%}", answers("12"), 1),
        ("Answer: white", answers("White."), 1), ("\\boxed{5 million}", answers("5,000,000"), 1), ("", answers("x"), 0),
        ("\\boxed{b, a}", answers("a, b"), 1), ("so\nwhite", answers("black", "white"), 1),
        ("\\boxed{}", answers("x"), 0),
        ("\\boxed{\\frac{1}{2}}", answers("0.5"), 1), ("\\boxed{B}", COLOURS_B, 1),
    ],
    "exact": [
        ("White.", answers("white"), 1), ("white", answers("White."), 1), ("so\n*white*", answers("white"), 1),
        ("off  white", answers("off white"), 1), ("whitish", answers("white"), 0), ("8", answers("8"), 1),
        ("8.0", answers("8"), 0), ("", answers("white"), 0), ("...", answers("..."), 1),
        ("\\boxed{red}", answers("red"), 1),
        ("B", COLOURS_B, 1), ("green", COLOURS_B, 1),
    ],
    "pixel-reasoner": [
        ("\\boxed{B}", COLOURS_B, 1), ("\\boxed{B. green}", COLOURS_B, 1), ("\\boxed{A}", COLOURS_B, 0),
        ("B", COLOURS_B, 0),
        ("\\boxed{5}", answers("5"), 1), ("\\boxed{12}", answers("12%"), 1), ("\\boxed{12%}", answers("12%"), 1),
        ("\\boxed{b and a}", answers("a, b"), 1), ("\\boxed{a}", answers("a, b"), 0),
        ("boxed a, then b", answers("a, b"), 1),  # behind the word, without a box
        ("\\boxed{4} no, \\boxed{5}", answers("5"), 1), ("", answers("5"), 0), ("\\boxed{5 minutes}", answers("5"), 1),
        ("<answer>5</answer>", answers("5"), 0), ("\\boxed{Paris}", answers("London", "paris"), 1),
        ("\\boxed{\\text{cats}}", answers("cats"), 1), ("\\boxed{\\dfrac{1}{2}}", answers("0.5"), 1),
    ],
    "anls": [
        ("Paris", answers("paris"), 1), ("\\boxed{  New   York }", answers("boston", "new york"), 1),
        ("kitten", answers("sitting"), 1 - 3 / 7), ("$1,200", answers("$1,300"), 1 - 1 / 6), ("ab", answers("ax"), 0.5),
        ("abc", answers("axy"), 0), ("", answers("x"), 0), ("yes " * 10_000, answers("yes"), 0),
        ("12%", answers("12"), 1 - 1 / 3), ("ab", answers("ab"), 1), ("", answers(""), 1),
        ("b, a", answers("a, b"), 0.5), ("the reply\nab", answers("ab"), 1), ("ab" + " " * 90, answers("xy"), 0),
    ],
    "anls-raw": [
        ("paris", answers("Paris"), 1), ("ab", answers("ax"), 0.5), ("abc", answers("axy"), 0), ("", answers(""), 1),
        ("xy" + " " * 6, answers("ab"), 1 - 2 / 8),  # padding raises it
        (" ab ", answers("ab"), 1), ("12%", answers("12"), 1 - 1 / 3), ("kitten", answers("sitting"), 1 - 3 / 7),
        ("b, a", answers("a, b"), 0.5), ("", answers("x"), 0), ("abc", answers("xyz", "abd"), 1 - 1 / 3),
    ],
    "anls-exclusive": [
        ("ab", answers("ax"), 0), ("abc", answers("abx"), 1 - 1 / 3), ("b, a", answers("a, b"), 1),
        ("c, a, b", answers("a, b, c"), 1), ("", answers(""), 1), ("x", answers(""), 0), ("Paris", answers("paris"), 1),
        ("kitten", answers("sitting"), 1 - 3 / 7), ("", answers("x"), 0), ("12%", answers("12"), 1 - 1 / 3),
        ("f, a, b, c, d, e", answers("a, b, c, d, e, f"), 1 - 6 / 16),  # six parts stay in their order
    ],
    "relaxed": [
        ("105", answers("100"), 1), ("95", answers("100"), 1), ("106", answers("100"), 0), ("2014", answers("2010"), 1),
        ("0.0", answers("0"), 0), ("0", answers("0"), 1), ("5%", answers("5"), 0), ("5%", answers("0.05"), 1),
        ("1,000", answers("1000"), 0), ("$5", answers("5"), 0), ("5 million", answers("5000000"), 0),
        ("yes", answers("Yes"), 1), (" 100 ", answers("100"), 1), ("\\boxed{100}", answers("100"), 1),
        ("", answers("1"), 0),
        ("nan", answers("1"), 0), ("inf", answers("1"), 0), ("-100", answers("100"), 0),
    ],
    "relaxed-lmms-eval": [
        ("yes ", answers("yes"), 0), ("yes", answers("Yes"), 1), ("100 ", answers("100"), 1),
        ("105", answers("100"), 1),
        ("106", answers("100"), 0), ("5% ", answers("0.05"), 0), ("5%", answers("0.05"), 1), ("0.0", answers("0"), 0),
        ("1,000", answers("1000"), 0), ("", answers("x"), 0), ("\\boxed{x}", answers("x"), 1),
    ],
    "relaxed-big-vision": [
        ("yes", answers("Yes"), 0), ("Yes", answers("Yes"), 1), ("105", answers("100"), 1), ("106", answers("100"), 0),
        ("5%", answers("0.05"), 1), ("5%", answers("5"), 0), ("0.0", answers("0"), 0), ("2014", answers("2010"), 1),
        ("", answers("1"), 0), ("1,000", answers("1000"), 0), ("\\boxed{100}", answers("100"), 1),
    ],
}  # fmt: skip


def agreeing(count: int) -> Item:
    """Ten annotators of whom `count` say "nike"."""
    return answers(*["nike"] * count, *[f"other {number}" for number in range(10 - count)])


TEXTS |= {
    "vqa": [
        ("nike", agreeing(1), 0.3), ("nike", agreeing(2), 0.6), ("nike", agreeing(3), 0.9), ("nike", agreeing(4), 1),
        ("Nike.", agreeing(10), 1), ("the nike", agreeing(4), 1), ("adidas", agreeing(10), 0), ("", agreeing(10), 0),
        ("\\boxed{nike}", agreeing(4), 1), ("two", answers(*["2"] * 10), 1), ("nike", answers("nike"), 1),
        ("dont", answers(*["don't"] * 10), 1),
    ],
    "vqa-simple": [
        ("nike", agreeing(1), 1 / 3), ("nike", agreeing(2), 2 / 3), ("nike", agreeing(3), 1), ("nike", agreeing(10), 1),
        ("adidas", agreeing(10), 0), ("", agreeing(10), 0), ("Nike!", agreeing(3), 1), ("a nike", agreeing(3), 1),
        ("\\boxed{nike}", agreeing(3), 1), ("two", answers("2", "2", "two"), 1),
    ],
}  # fmt: skip

CASES = LETTERS | TEXTS | {name: [(text, answers("5"), score) for text, score in rows] for name, rows in COUNTS.items()}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name):
    wrong = [
        (response[:60], item.reference, found, score)
        for response, item, score in CASES[name]
        if (found := SCORERS[name](response, item)) != (score if score is None else pytest.approx(score))
    ]
    assert not wrong


def test_every_scorer_has_ten_cases():
    assert {name: len(cases) for name, cases in CASES.items() if len(cases) < 10} == {}
    assert set(CASES) == set(SCORERS)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("The two dogs", "2 dogs"), ("None", "0"), ("well-known", "well known"), ("well -known", "well known"),
        ("1,000", "1000"), ("St. Louis", "st louis"), ("3.5", "3.5"), ("it's", "it 's"), ("cant", "can't"),
        ("couldnt've", "couldn't've"), ("what?", "what"), ("a\nb\tc", "b c"), ('"yes"', "yes"), ("", ""),
    ],
)  # fmt: skip
def test_vqa_clean_up(text, clean):
    assert vqa_text(text) == clean


@functools.cache
def distance(a: str, b: str) -> int:
    """The edit distance by its recursive definition: another computation than the scorers'."""
    if not a or not b:
        return len(a) + len(b)
    return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))


WORDS = st.text("abc", max_size=5)


@settings(max_examples=40)
@given(WORDS, st.lists(WORDS, max_size=3))
def test_anls_is_that_of_an_independent_computation(answer, references):
    def similarities():
        for reference in references:
            longer = max(len(answer), len(reference))
            yield 1 - distance(answer, reference) / longer if longer else 1.0

    best = max(similarities(), default=0.0)
    kept = best if best >= 0.5 else 0.0
    assert anls(answer, references) == pytest.approx(kept)
    assert anls_raw(answer, references) == pytest.approx(kept)
    assert anls_exclusive(answer, references) == pytest.approx(0.0 if best == 0.5 else kept)


@settings(max_examples=40)
@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a) == distance(a, b)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


HOSTILE = (
    "(" * 20_000, "A " * 20_000, "\\boxed{" * 5_000, "<answer>" * 5_000, "answer is " * 5_000, "ANSWER" + " " * 50_000,
    "a, " * 5_000, "9" * 5_000, "1,1" * 5_000, "\\boxed{" + "x" * 20_000 + "}", "\0\ud800", "A" * 3_000,
    "five " * 5_000,
)  # fmt: skip


@pytest.mark.parametrize("name", SCORERS)
def test_hostile_responses_are_scored(name):
    """Within moments: a rule whose time is quadratic in the response would show here."""
    item = COLOURS_B if name in LETTERS else answers(*["a, b, c, d, e"] * 3, "5", "x" * 900)
    for response in HOSTILE:
        score = SCORERS[name](response, item)
        assert score is None or 0.0 <= score <= 1.0
        assert isinstance(SCORERS[name].answer(response, item), str | None)


def test_a_withheld_answer_is_not_scored():
    assert [SCORERS[name]("5", Item("1", "?")) for name in SCORERS] == [None] * len(SCORERS)


@pytest.mark.parametrize(
    ("name", "response", "answer"),
    [
        ("choice", "\\boxed{green}", "B"), ("choice", "so\nyellow", "yellow"), ("lmms-eval-letter", "(C) x", "C"),
        ("vlmevalkit-letter", "?", None), ("mme-realworld", "East", None), ("count", "2 and then: 5", "5"),
        ("anls", "x\nAnswer: y", "y"),
    ],
)  # fmt: skip
def test_answers_that_are_recorded(name, response, answer):
    item = COLOURS_B if name in LETTERS else answers("5")
    assert SCORERS[name].answer(response, item) == answer


def test_unknown_scorers_are_named():
    with pytest.raises(UserError, match="known: answer, exact"):
        find_scorer("levenshtein")
    with pytest.raises(UserError, match="cannot be imported"):
        find_scorer("no_such_module:score")


def always_half(response: str, item: Item) -> float:
    return 0.5


def test_a_scorer_of_ones_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_scorers", types.SimpleNamespace(half=always_half))
    assert find_scorer("own_scorers:half")("x", COLOURS_B) == 0.5
