"""Advantages against the check values of the literature, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pixel_reasoner_jax.config_values import ADVANTAGES, RESPONSE_MASKS
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.training.advantages import METHODS, GroupRewards, find_advantages, find_uniform
from pixel_reasoner_jax.training.masks import MASKS, find_finished
from pixel_reasoner_jax.trajectory import Ended


def advantages(method: str, *groups: list[float]) -> np.ndarray:
    rewards = np.array(groups, np.float64)
    return find_advantages(method, GroupRewards(rewards, {"all": rewards}, {"all": 1.0}))


def test_the_methods_are_those_that_a_config_may_name():
    assert tuple(METHODS) == ADVANTAGES and tuple(MASKS) == RESPONSE_MASKS


@pytest.mark.parametrize("method, size", [("centred", 0.5), ("std", 0.8660), ("leave_one_out", 0.6667)])
def test_check_values_of_a_group(method, size):
    found = advantages(method, [1, 0, 0, 1])
    np.testing.assert_allclose(found, [[size, -size, -size, size]], atol=5e-5)
    assert found.dtype == np.float32


def test_whitened_over_the_batch():
    """Centred: 3/4, three times -1/4, and +-1/2; their squares sum to 1.75, of 8 numbers."""
    found = advantages("batch_whitened", [1, 0, 0, 0], [1, 0, 0, 1])
    deviation = np.sqrt(1.75 / 7)
    np.testing.assert_allclose(found[0], np.array([0.75, -0.25, -0.25, -0.25]) / deviation, rtol=1e-5)
    np.testing.assert_allclose(found[1], np.array([0.5, -0.5, -0.5, 0.5]) / deviation, rtol=1e-5)


def test_check_values_of_advantages_per_term():
    terms = {"accuracy": np.array([[1.0, 0, 1, 0]]), "format": np.array([[1.0, 1, 1, 0]])}
    given = GroupRewards(sum(terms.values()), terms, {"accuracy": 1.0, "format": 1.0})
    np.testing.assert_allclose(find_advantages("gdpo", given), [[0.769, -0.206, 0.769, -1.332]], atol=1e-3)
    alone = GroupRewards(sum(terms.values()), terms, {"accuracy": 2.0, "format": 0.0})
    np.testing.assert_allclose(find_advantages("gdpo", alone), [[0.8660, -0.8660, 0.8660, -0.8660]], atol=1e-4)


def test_check_values_of_masked_responses():
    """Mini-o3: the last two met a limit, count in the mean and the deviation, and are then left out."""
    rewards = np.array([[1.0, 0, 0, 0]])
    finished = find_finished(np.array([["answer", "answer", "max_operations", "max_images"]]), ["over_turn"])
    assert finished.tolist() == [[True, True, False, False]] and not find_uniform(rewards, finished).any()
    np.testing.assert_allclose(advantages("std", *rewards), [[1.5, -0.5, -0.5, -0.5]], atol=1e-5)


def test_each_limit_has_its_mask():
    ends = np.array([str(end) for end in Ended] + ["None"])
    left_out = {mask: set(ends[~find_finished(ends, [mask])]) for mask in MASKS}
    assert left_out == {"over_turn": {"max_operations", "max_images"}, "over_long": {"max_tokens", "max_length"}}
    assert find_finished(ends, []).all()
    assert set(ends[find_finished(ends, list(MASKS))]) == {"answer", "withheld", "not_asked", "None"}


def test_a_group_is_uniform_by_its_finished_responses():
    rewards = np.array([[1, 0, 0, 1], [0.5] * 4, [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    assert find_uniform(rewards).tolist() == [False, True, False, False, False]
    finished = np.array([[1, 1, 0, 0], [1] * 4, [0, 1, 1, 1], [1, 0, 0, 0], [0] * 4], bool)
    assert find_uniform(rewards, finished).tolist() == [False, True, True, True, True]


def test_rounding_does_not_make_a_group_informative():
    rewards = np.array([[0.1 + 0.2, 0.3, 0.3, 0.3]])
    assert rewards.std() > 0 and find_uniform(rewards).all()


rewards_of_groups = arrays(np.float64, (5, 8), elements=st.floats(-2, 2))


@given(rewards_of_groups, st.floats(-3, 3), st.sampled_from(["centred", "leave_one_out"]))
def test_advantages_sum_to_zero_and_ignore_a_shift(rewards, shift, method):
    found = advantages(method, *rewards)
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-5)
    np.testing.assert_allclose(advantages(method, *(rewards + shift)), found, atol=3e-6)


@given(rewards_of_groups, st.sampled_from(ADVANTAGES))
def test_a_better_response_of_a_group_has_no_smaller_advantage(rewards, method):
    found = advantages(method, *rewards).astype(np.float64)
    better = rewards[:, :, None] > rewards[:, None, :]
    assert (found[:, :, None] - found[:, None, :] >= -1e-6)[better].all()
    assert find_advantages(method, GroupRewards(np.zeros((0, 8)))).shape == (0, 8)


@pytest.mark.parametrize("rewards", [[1.0, 0.0], [[]], [[1.0, np.nan]], [[np.inf, 0.0]]])
def test_bad_rewards_are_named(rewards):
    with pytest.raises(ValueError, match="rewards must be"):
        find_uniform(rewards)


def rank(rewards: GroupRewards) -> np.ndarray:
    return rewards.total.argsort(axis=1).argsort(axis=1) - 1.5


def mean(rewards: GroupRewards) -> np.ndarray:
    return rewards.total.mean(axis=1)


def beyond_float32(rewards: GroupRewards) -> np.ndarray:
    return rewards.total * 1e300


def test_an_advantage_of_ones_own():
    np.testing.assert_array_equal(advantages(f"{__name__}:rank", [3, 1, 2, 9]), [[0.5, -1.5, -0.5, 1.5]])
    with pytest.raises(UserError, match=r"advantage '.*:mean' must be a finite number for each of 1 x 4 responses"):
        advantages(f"{__name__}:mean", [3, 1, 2, 9])
    with pytest.raises(UserError, match="must be a finite number .* it is .*e.300"):  # of float32
        advantages(f"{__name__}:beyond_float32", [3, 1, 2, 9])
    with pytest.raises(UserError, match="unknown advantage 'grpo'; known: centred, std"):
        advantages("grpo", [1, 0])
