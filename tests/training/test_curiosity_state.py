"""Dual ascent on the multipliers, and averages of rates, worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.training.curiosity_state import CuriosityState

RATES = np.array([0.25, 0.5, 1.0]), np.array([False, False, True])  # of two images and a video


def settings(**changed):
    curiosity = load_config("rl_qwen2_5_vl_7b").curiosity
    curiosity.update(dict(alpha_step=1.0, beta_step=0.1, alpha_bounds=(0.0, 0.7), beta_bounds=(0.0, 0.2)))
    curiosity.update({"multipliers": "dual", **changed})
    return curiosity


def test_a_multiplier_grows_while_its_constraint_is_violated():
    first = CuriosityState.begin(settings())
    assert first == CuriosityState(0.5, 0.05)  # H is 0.3, N is 1
    assert first.after(0.2, 1.5, settings()).metrics() == pytest.approx({"alpha": 0.6, "beta": 0.1})
    assert first.after(0.4, 0.9, settings()).metrics() == pytest.approx({"alpha": 0.4, "beta": 0.04})
    assert first.after(0.0, 9.0, settings()) == CuriosityState(0.7, 0.2)  # projected
    assert first.after(1.0, 0.0, settings()) == CuriosityState(0.0, 0.0)
    assert first.after(None, None, settings()) == first  # an episode whose queries all failed


def test_fixed_multipliers_stay_and_are_those_of_the_config():
    fixed = settings(multipliers="fixed")
    begun = CuriosityState.begin(fixed, {"alpha": 3.0, "beta": 3.0})
    assert begun.after(0.0, 4.0, fixed) == begun == CuriosityState(0.5, 0.05)


def test_they_go_on_bit_for_bit():
    dual = settings(rate="media")
    now = CuriosityState.begin(dual).with_rates(*RATES, dual).after(1 / 7, 2 / 3, dual)
    assert now.rates
    assert CuriosityState.begin(dual, json.loads(json.dumps(now.to_json(dual)))) == now


def test_a_run_that_goes_on_with_other_settings():
    fixed, dual = settings(multipliers="fixed", alpha=0.1), settings(alpha=0.6)
    of_fixed = CuriosityState.begin(fixed).to_json(fixed)
    assert CuriosityState.begin(dual, of_fixed) == CuriosityState(0.6, 0.05)  # there they begin
    with pytest.raises(ConfigError, match="alpha is 0.8, where dual multipliers begin"):
        CuriosityState.begin(settings(alpha=0.8), of_fixed)
    narrow = settings(alpha=0.6, alpha_bounds=(0.2, 0.3), beta_bounds=(0.06, 0.06))
    assert CuriosityState.begin(narrow, CuriosityState(0.65, 0.01).to_json(dual)) == CuriosityState(0.3, 0.06)


def test_bounds_that_are_equal_hold_a_multiplier():
    held = settings(alpha_bounds=(0.5, 0.5))
    assert CuriosityState.begin(held).after(0.0, 0.0, held) == CuriosityState(0.5, 0.0)


def test_they_begin_within_their_bounds():
    with pytest.raises(ConfigError, match=r"config.curiosity.alpha is 2.0, where .*alpha_bounds = \(0.0, 0.7\)"):
        CuriosityState.begin(settings(alpha=2.0))


@pytest.mark.parametrize(
    "rate, first, second, of_queries",
    [
        ("query", {}, {}, [0.25, 0.5, 1.0]),
        ("media", {"image": 0.375, "video": 1.0}, {"image": 0.34375, "video": 1.0}, [0.34375, 0.34375, 1.0]),
        ("global", {"all": 1.75 / 3}, {"all": 0.75 * 1.75 / 3 + 0.25 * 0.25}, [0.5] * 3),
    ],
)
def test_the_rate_that_the_bonus_takes(rate, first, second, of_queries):
    """An episode of all three queries, whose means begin the averages, and then one of the first alone."""
    curiosity = settings(rate=rate, rate_decay=0.75, multipliers="fixed")
    begun = CuriosityState.begin(curiosity).with_rates(*RATES, curiosity)
    assert begun.rates == pytest.approx(first)
    then = begun.with_rates(RATES[0][:1], RATES[1][:1], curiosity)
    assert then.rates == pytest.approx(second)
    np.testing.assert_allclose(then.rate_of(*RATES, curiosity), of_queries)
    assert then.metrics() == {"alpha": 0.5, "beta": 0.05, **{f"rate_{of}": value for of, value in then.rates.items()}}
    assert CuriosityState.begin(curiosity, json.loads(json.dumps(then.to_json(curiosity)))) == then
    empty = then.with_rates(np.zeros(0), np.zeros(0, bool), curiosity)  # an episode whose queries all failed
    assert empty == then
