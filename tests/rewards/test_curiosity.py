from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pixel_reasoner_jax.rewards import reward_terms, shaped_reward


def test_hand_computed_group_of_eight():
    correct = np.array([[1, 0, 0, 0, 1, 0, 0, 0]])
    operations = np.array([[1, 0, 0, 0, 3, 0, 0, 0]])
    # RaPR is 2/8, so each of the two earns 0.5 * (0.3 - 0.25) = 0.025; three calls are two too many: -0.1.
    expected = [[1.025, 0, 0, 0, 1 + 0.025 - 0.1, 0, 0, 0]]
    np.testing.assert_allclose(shaped_reward(correct, operations), expected, atol=1e-12)
    terms = reward_terms(correct, operations)
    np.testing.assert_allclose(terms.rate, [0.25])
    np.testing.assert_allclose(terms.bonus[0, [0, 4]], 0.025)
    np.testing.assert_allclose(terms.penalty[0, 4], -0.1)
    np.testing.assert_allclose(terms.total, expected)


def test_largest_bonus_of_the_paper():
    operations = np.zeros((1, 8), int)
    operations[0, 3] = 1
    reward = shaped_reward(np.zeros((1, 8)), operations)
    np.testing.assert_allclose(reward[0, 3], 0.0875)
    assert np.count_nonzero(reward) == 1


def test_rate_is_per_query():
    operations = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    reward = shaped_reward(np.zeros((2, 4)), operations)
    np.testing.assert_allclose(reward, [[0, 0, 0, 0], [0.5 * 0.05, 0, 0, 0]], atol=1e-12)


def test_failed_calls_cost_but_do_not_count_as_pixel_reasoning():
    operations = np.array([[2, 1, 0, 0, 0, 0, 0, 0]])
    succeeded = np.array([[0, 1, 0, 0, 0, 0, 0, 0]])
    terms = reward_terms(np.zeros((1, 8)), operations, succeeded)
    np.testing.assert_allclose(terms.rate, [1 / 8])
    np.testing.assert_allclose(terms.bonus, [[0, 0.0875, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(terms.penalty[0, :2], [-0.05, 0])
    np.testing.assert_allclose(reward_terms(np.zeros((1, 8)), operations, succeeded > 0).total, terms.total)


def test_other_constants():
    reward = shaped_reward([[0, 0]], [[4, 0]], alpha=1.0, beta=0.1, rate_floor=0.75, max_operations=2)
    np.testing.assert_allclose(reward, [[0.25 - 0.2, 0]])


def test_release_variant():
    operations = np.array([[1, 0, 0, 0, 0, 0, 0, 0]] * 2)
    failed = np.zeros_like(operations)
    terms = reward_terms(np.zeros((2, 8)), operations, failed, variant="release", video=[False, True])
    # 0.25 * (0.3 - 1/8) / (1/8), divided by 2 for images and by 1.5 for videos; the failed call counts.
    np.testing.assert_allclose(terms.bonus[:, 0], [0.35 / 2, 0.35 / 1.5])
    np.testing.assert_allclose(reward_terms(np.zeros((1, 8)), np.zeros((1, 8)), variant="release").bonus, 0)


counts = arrays(np.int64, (3, 8), elements=st.integers(0, 6))


@given(counts, counts, st.floats(0, 2), st.floats(0, 1), st.integers(0, 4), st.sampled_from(["paper", "release"]))
def test_properties(operations, succeeded, alpha, rate_floor, max_operations, variant):
    succeeded = np.minimum(operations, succeeded)
    terms = reward_terms(
        np.zeros((3, 8)), operations, succeeded, alpha, 0.05, rate_floor, max_operations, variant=variant
    )
    assert (terms.bonus >= 0).all() and (terms.penalty <= 0).all()
    assert not terms.bonus[terms.rate >= rate_floor].any()
    assert not terms.penalty[operations <= max_operations].any()
    assert (terms.penalty[operations > max_operations] < 0).all()
    used = operations if variant == "release" else succeeded
    assert not terms.bonus[used == 0].any()


@pytest.mark.parametrize(
    "arguments,message",
    [
        (([1, 0], [1, 0]), r"\[queries, samples\]"),
        (([[1, 0]], [[1, 0, 2]]), r"\(1, 2\), \(1, 3\)"),
    ],
)
def test_wrong_shapes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        shaped_reward(*arguments)


def test_unknown_variant_names_the_known_ones():
    with pytest.raises(ValueError, match="paper, release"):
        shaped_reward([[1]], [[1]], variant="papre")
    with pytest.raises(ValueError, match="video must be"):
        shaped_reward([[1]], [[1]], video=[True, False])
