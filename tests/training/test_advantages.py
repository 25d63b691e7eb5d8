from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pixel_reasoner_jax.training.advantages import group_advantages


def test_hand_computed_groups():
    advantages, uniform = group_advantages([[1, 0, 0, 1], [0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]])
    np.testing.assert_allclose(advantages, [[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]])
    np.testing.assert_array_equal(uniform, [False, True, False])
    assert advantages.dtype == np.float32


def test_standard_deviation_is_optional():
    advantages, _ = group_advantages([[1, 0, 0, 1], [0.3, 0.3, 0.3, 0.3]], normalize_std=True)
    np.testing.assert_allclose(advantages, [[1, -1, -1, 1], [0, 0, 0, 0]])


def test_rounding_does_not_make_a_group_informative():
    rewards = np.array([[0.1 + 0.2, 0.3, 0.3, 0.3]])
    assert rewards.std() > 0
    advantages, uniform = group_advantages(rewards, normalize_std=True)
    assert uniform.all() and not advantages.any()


@given(arrays(np.float64, (5, 8), elements=st.floats(-2, 2)), st.floats(-3, 3))
def test_advantages_sum_to_zero_and_ignore_a_shift(rewards, shift):
    advantages, uniform = group_advantages(rewards)
    np.testing.assert_allclose(advantages.sum(1), 0, atol=1e-5)
    np.testing.assert_allclose(group_advantages(rewards + shift)[0], advantages, atol=3e-6)
    assert not advantages[uniform].any()


@pytest.mark.parametrize("rewards", [[1.0, 0.0], [[]], [[1.0, np.nan]], [[np.inf, 0.0]]])
def test_bad_rewards_are_named(rewards):
    with pytest.raises(ValueError, match="rewards must be"):
        group_advantages(rewards)
