"""Dual ascent on the multipliers, worked by hand."""

from __future__ import annotations

import json

import pytest

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.training.multipliers import Multipliers


def settings(**changed):
    curiosity = load_config("rl_qwen2_5_vl_7b").curiosity
    curiosity.update(dict(alpha_step=1.0, beta_step=0.1, alpha_bounds=(0.0, 0.7), beta_bounds=(0.0, 0.2)))
    curiosity.update({"multipliers": "dual", **changed})
    return curiosity


def test_a_multiplier_grows_while_its_constraint_is_violated():
    first = Multipliers.begin(settings())
    assert first == Multipliers(0.5, 0.05)  # H is 0.3, N is 1
    assert first.after(0.2, 1.5, settings()).to_json() == pytest.approx({"alpha": 0.6, "beta": 0.1})
    assert first.after(0.4, 0.9, settings()).to_json() == pytest.approx({"alpha": 0.4, "beta": 0.04})
    assert first.after(0.0, 9.0, settings()) == Multipliers(0.7, 0.2)  # projected
    assert first.after(1.0, 0.0, settings()) == Multipliers(0.0, 0.0)
    assert first.after(None, None, settings()) == first  # an episode whose queries all failed


def test_fixed_multipliers_stay_and_are_those_of_the_config():
    fixed = settings(multipliers="fixed")
    begun = Multipliers.begin(fixed, {"alpha": 3.0, "beta": 3.0})
    assert begun.after(0.0, 4.0, fixed) == begun == Multipliers(0.5, 0.05)


def test_they_go_on_bit_for_bit():
    dual = settings()
    now = Multipliers.begin(dual).after(1 / 7, 2 / 3, dual)
    assert Multipliers.begin(dual, json.loads(json.dumps(now.to_json()))) == now


def test_they_begin_within_their_bounds():
    with pytest.raises(ConfigError, match=r"config.curiosity.alpha is 2.0, where .*alpha_bounds = \(0.0, 0.7\)"):
        Multipliers.begin(settings(alpha=2.0))
