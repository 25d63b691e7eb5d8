from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from pixel_reasoner_jax.training.optimizer import decay_mask, learning_rate_schedule, make_optimizer


def config(**changes):
    return ConfigDict(
        dict(
            learning_rate=1e-3, warmup_fraction=0.1, schedule="cosine", weight_decay=0.0, b1=0.9, b2=0.95, clip_norm=1.0
        )
        | changes
    )


def test_warm_up_then_cosine():
    schedule = learning_rate_schedule(config(), 100)
    rates = np.array([schedule(step) for step in range(100)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 1e-4, rtol=1e-5)
    expected = 0.5 * (1 + np.cos(np.pi * np.arange(90) / 90)) * 1e-3
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-4, atol=1e-9)
    assert (rates > 0).all()


@pytest.mark.parametrize("schedule,last", [("linear", 1e-4), ("constant", 1e-3)])
def test_other_schedules(schedule, last):
    rates = learning_rate_schedule(config(schedule=schedule, warmup_fraction=0.0), 10)
    np.testing.assert_allclose(rates(0), 1e-3, rtol=1e-6)
    np.testing.assert_allclose(rates(9), last, rtol=1e-5)


def test_unknown_schedule_names_the_known_ones():
    with pytest.raises(ValueError, match="cosine, linear, constant"):
        learning_rate_schedule(config(schedule="cosin"), 10)


def test_decay_spares_norms_and_biases_of_stacked_layers():
    class Layer(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(2, 3, rngs=rngs)
            self.input_norm = nnx.RMSNorm(3, rngs=rngs)

    @nnx.vmap(in_axes=0)
    def stack(rngs):
        return Layer(rngs)

    _, parameters = nnx.split(stack(nnx.Rngs(0).split(4)))
    mask = decay_mask(parameters)
    assert parameters["input_norm"]["scale"].get_value().ndim == 2
    assert mask["dense"]["kernel"].get_value() and not mask["dense"]["bias"].get_value()
    assert not mask["input_norm"]["scale"].get_value()


def test_update_is_clipped_adamw():
    parameters = {"kernel": jnp.ones((2, 2)), "norm": {"scale": jnp.ones(2)}}
    gradients = {"kernel": jnp.full((2, 2), 100.0), "norm": {"scale": jnp.full(2, 100.0)}}
    optimizer = make_optimizer(config(weight_decay=0.1))
    updates, _ = optimizer.update(gradients, optimizer.init(parameters), parameters)
    np.testing.assert_allclose(updates["norm"]["scale"], -1.0, rtol=1e-5)
    np.testing.assert_allclose(updates["kernel"], -1.0 - 0.1, rtol=1e-5)
