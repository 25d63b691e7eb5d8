"""The reward as a sum of terms: every term, weight, gate and cap by hand, and functions of one's own."""

from __future__ import annotations

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.config_values import OPEN, REWARD_TERMS
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.rewards import reward_terms
from pixel_reasoner_jax.rewards.terms import TERMS, Responses, Term, evaluate_terms, find_terms, weighted_sum
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory

SETTINGS = dict(alpha=0.5, beta=0.05, limit=20_480, margin=4_096)


def responses(correct, operations=None, failed=None, variant="paper", **changed) -> Responses:
    correct = np.array(correct, float)
    operations = np.zeros(correct.shape, int) if operations is None else np.array(operations)
    failed = np.zeros(correct.shape, int) if failed is None else np.array(failed)
    curiosity = ConfigDict(dict(variant=variant, rate_floor=0.3, max_operations=1))
    groups = [
        [trajectory(n, bad) for n, bad in zip(*counts, strict=True)] for counts in zip(operations, failed, strict=True)
    ]
    made = Responses.of(groups, correct, curiosity=curiosity, **{**SETTINGS, **changed})
    return made


def trajectory(operations=0, failed=0, sampled=3, observed=2, video=False, ended=Ended.ANSWER) -> Trajectory:
    calls = [OperationRecord(0, "zoom_in", {}, error="no" if n < failed else None) for n in range(operations)]
    source = np.array([0, 0] + [1] * sampled + [2] * observed, np.int8)
    media = [types.SimpleNamespace(kind="video" if video else "image")]
    return Trajectory("q", "?", "5", [], source, source, source == 1, media, operations=calls, ended=ended)


def term(function: str, **changed) -> dict:
    return {**OPEN["rewards.terms"], "function": function, **changed}


def composed(given: Responses, **terms: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
    found = find_terms(ConfigDict(terms))
    values = evaluate_terms(found, given)
    return values, weighted_sum(found, values)


def test_the_functions_are_those_that_a_config_may_name():
    assert tuple(TERMS) == REWARD_TERMS


def test_what_a_term_sees():
    group = [trajectory(3, 2, sampled=5, observed=4, video=True), trajectory(ended=Ended.LENGTH)]
    seen = Responses.of([group], np.array([[1.0, 0.0]]), curiosity=ConfigDict(dict(variant="paper")), **SETTINGS)
    counts = (seen.operations, seen.succeeded, seen.failed, seen.tokens, seen.length)
    assert [count.tolist() for count in counts] == [[[3, 0]], [[1, 0]], [[2, 0]], [[5, 3]], [[9, 5]]]
    assert seen.ended.tolist() == [["answer", "max_length"]] and seen.is_video.tolist() == [True]
    assert seen.rate.tolist() == [0.5] and seen.trajectories == [group]


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_the_default_reward_is_the_papers_to_the_last_bit(variant):
    random = np.random.default_rng(0)
    correct, operations = random.integers(0, 2, (5, 8)), random.integers(0, 4, (5, 8))
    failed = np.minimum(operations, random.integers(0, 3, (5, 8)))
    values, total = composed(responses(correct, operations, failed, variant), **load_config_terms())
    expected = reward_terms(correct, operations, operations - failed, variant=variant)
    np.testing.assert_array_equal(total, expected.total)
    for label in ("correct", "bonus", "penalty"):
        np.testing.assert_array_equal(values[label], getattr(expected, label))


def load_config_terms() -> dict:
    return load_config("rl_qwen2_5_vl_7b").rewards.terms.to_dict()


def test_check_values_of_the_bonus():
    """G 8, RaPR 1/8: the release's 0.175 for an image; the paper's 0.0875. Three operations cost 0.10 in both."""
    for variant, bonus in (("paper", 0.0875), ("release", 0.175)):
        values, _ = composed(responses([[0] * 8], [[3] + [0] * 7], variant=variant), **load_config_terms())
        assert values["bonus"][0, 0] == pytest.approx(bonus) and values["penalty"][0, 0] == pytest.approx(-0.10)


def test_check_values_of_overlong_responses():
    given = responses([[0] * 4])
    object.__setattr__(given, "length", np.array([[18_432, 16_384, 20_480, 99]]))
    np.testing.assert_allclose(TERMS["overlong"](given), [[-0.5, 0, -1, 0]])


def test_length_prefers_short_right_answers():
    given = responses([[1, 1, 0, 0], [1, 1, 1, 1]])
    object.__setattr__(given, "tokens", np.array([[10, 30, 10, 50], [7, 7, 7, 7]]))
    np.testing.assert_allclose(TERMS["length"](given), [[0.5, 0, 0, -0.5], [0] * 4])


def test_weights_gates_and_caps():
    """As DeepEyes: right with an operation 2.0, without 0.8; wrong 0."""
    own = dict(
        correct=term("accuracy", weight=0.8),
        used=term(f"{__name__}:three_if_used", weight=1.2, gate="correct", cap=1.0),
        watched=term(f"{__name__}:three_if_used", weight=0.0),
    )
    values, total = composed(responses([[1, 1, 0]], [[1, 0, 1]]), **own)
    np.testing.assert_allclose(total, [[2.0, 0.8, 0.0]])
    np.testing.assert_allclose(values["watched"], [[3, 0, 3]])  # measured alone
    values, _ = composed(responses([[1]], [[5]]), low=term("excess_operations", cap=0.1))
    np.testing.assert_allclose(values["low"], [[-0.1]])


def three_if_used(given: Responses) -> np.ndarray:
    return 3.0 * (given.operations > 0)


def test_a_gate_is_the_function_of_a_term_and_not_its_own_gate():
    own = dict(
        used=term(f"{__name__}:three_if_used", gate="correct"),
        short=term(f"{__name__}:one", gate="used"),
        correct=term("accuracy"),
    )
    values, _ = composed(responses([[0, 1, 0]], [[1, 0, 0]]), **own)
    assert values["short"].tolist() == [[1, 0, 0]] and values["used"].tolist() == [[0, 0, 0]]


def one(given: Responses) -> list:
    return np.ones(given.correct.shape).tolist()


def one_too_few(given: Responses) -> np.ndarray:
    return np.ones(given.correct.shape)[:, 1:]


def not_finite(given: Responses) -> np.ndarray:
    return np.where(given.correct > 0, np.nan, 1.0)


def words(given: Responses) -> list:
    return ["good"]


def huge(given: Responses) -> np.ndarray:
    return np.full(given.correct.shape, 1e300)  # beyond float32


def nothing(given: Responses) -> None:
    print("a function that forgot to return")


def uneven(given: Responses) -> list:
    return [[1.0, 2.0], [3.0]]


@pytest.mark.parametrize("name", ["one_too_few", "not_finite", "words", "huge", "nothing", "uneven"])
def test_a_function_of_ones_own_must_return_a_number_for_each_response(name):
    with pytest.raises(UserError, match=rf"reward term style \(.*{name}\) must be a finite number for each of 1 x 2"):
        composed(responses([[1, 0]]), style=term(f"{__name__}:{name}"))


def large(given: Responses) -> np.ndarray:
    return np.full(given.correct.shape, 3e38)


def test_terms_whose_sum_is_not_finite_are_named():
    found = find_terms(ConfigDict(dict(correct=term("accuracy"), style=term(f"{__name__}:large", weight=1e300))))
    with pytest.raises(UserError, match=r"sum of the reward terms, correct and style with their weights, is not fin"):
        weighted_sum(found, evaluate_terms(found, responses([[1, 0]])))


def test_a_function_of_ones_own_changes_nothing_that_other_terms_see():
    def greedy(given: Responses) -> np.ndarray:
        given.correct[...] = 1.0
        return given.correct

    terms = {
        "style": Term(greedy, "mine:greedy", 1.0, "none", 0.0),
        "correct": Term(TERMS["accuracy"], "accuracy", 1.0, "none", 0.0),
    }
    correct = np.array([[1.0, 0.0]])
    with pytest.raises(ValueError, match="read-only"):
        evaluate_terms(terms, responses(correct))
    assert correct.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "terms, message",
    [
        (dict(a=term("acuracy")), "unknown reward term 'acuracy'; known: accuracy, curiosity"),
        (dict(a=term("nowhere_at_all:f")), "reward term 'nowhere_at_all:f' cannot be imported"),
        (dict(a=term("accuracy", gate="b")), r"rewards.terms.a.gate is 'b': it must be the label of a term, one of a"),
        ({}, "config.rewards.terms is empty"),
        (dict(a=term("accuracy", weight=0.0)), "config.rewards.terms only measures: every weight is 0"),
    ],
)
def test_terms_that_there_are_not_are_named(terms, message):
    with pytest.raises(UserError, match=message):
        find_terms(ConfigDict(terms))


def test_labels_of_ones_own_are_added_to_the_references(tmp_path):
    """On the command line and in files."""
    added = ("rewards.terms.style.function", f"{__name__}:one"), ("rewards.terms.style.weight", "0.5")
    config = load_config("rl_qwen2_5_vl_7b", added)
    assert config.rewards.terms.style.to_dict() == term(f"{__name__}:one", weight=0.5)
    assert set(find_terms(config.rewards.terms)) == {"correct", "bonus", "penalty", "style"}
    assert find_terms(config.rewards.terms)["style"] == Term(one, f"{__name__}:one", 0.5, "none", 0.0)
    file = tmp_path / "rl_mine.py"
    file.write_text(
        "from pixel_reasoner_jax.config import variant\n"
        "def get_config():\n"
        "    return variant('rl_qwen2_5_vl_7b', {'rewards.terms.long.function': 'overlong', 'workdir': 'mine'})\n"
    )
    terms = load_config(file, reference="rl_qwen2_5_vl_7b").rewards.terms
    assert terms["long"].to_dict() == term("overlong") and "long" not in config.rewards.terms


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("rewards.terms.bonsu.weight", "2", "config.rewards.terms.bonsu.function is '': it must be one of 'accuracy'"),
        ("rewards.terms.bonus.wieght", "2", "unknown key config.rewards.terms.bonus.wieght; did you mean"),
        ("rewards.terms.style", "2", "config.rewards.terms.style is a section; it has "),
        ("rewards.terms.bonus.function", "curiousity", "must be one of 'accuracy', 'curiosity'.*, or module:function"),
        ("rewards.terms.bonus.cap", "-1", "must be 0 or greater"),
    ],
)
def test_a_misspelt_term_is_named(key, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config("rl_qwen2_5_vl_7b", [(key, value)])
