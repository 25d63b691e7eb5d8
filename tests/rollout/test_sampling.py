"""The sampling distribution against transformers' logits processors, and its independence of company."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pixel_reasoner_jax.rollout.sampling import (
    SamplingSettings,
    SlotSampling,
    draw,
    sample_keys,
    sample_seeds,
    sampling_logits,
)

VOCABULARY = 97

distribution = jax.jit(sampling_logits, static_argnums=3)


def logits(rows: int = 12) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, VOCABULARY)).astype(np.float32) * 3


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 9])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-3])
def test_distribution_equals_transformers(temperature, top_k, top_p):
    forbidden = np.zeros(VOCABULARY, bool)
    forbidden[[3, 50]] = True
    raw = logits()
    expected = torch.from_numpy(np.where(forbidden, -np.inf, raw))
    expected = TemperatureLogitsWarper(temperature)(None, expected)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    settings = SamplingSettings(temperature, top_p, top_k)
    masked = np.where(forbidden, -np.inf, raw)
    actual = distribution(masked, SlotSampling.of([settings] * len(raw), [1] * len(raw)), None, settings.filtered)
    np.testing.assert_allclose(
        jax.nn.softmax(actual, axis=-1), torch.softmax(expected, dim=-1).numpy(), rtol=1e-5, atol=1e-7
    )


def test_draws_follow_the_distribution():
    """Frequencies of 40,000 draws lie within five standard errors of the probabilities."""
    raw = jnp.broadcast_to(jnp.asarray(logits(1)[:, :8]), (40_000, 8)).at[:, 2].set(-jnp.inf)
    temperature = np.full(len(raw), 0.8, np.float32)
    tempered = sampling_logits(raw, SlotSampling.of([SamplingSettings(0.8)] * len(raw), [1] * len(raw)), None, False)
    keys = sample_keys(sample_seeds(0, ["q"] * len(raw), np.arange(len(raw))))
    tokens, logprobs = draw(tempered, keys, jnp.zeros(len(raw), jnp.int32), temperature)
    probability = np.asarray(jax.nn.softmax(tempered[0]))
    frequency = np.bincount(np.asarray(tokens), minlength=8) / len(raw)
    assert frequency[2] == 0
    assert np.all(np.abs(frequency - probability) <= 5 * np.sqrt(probability * (1 - probability) / len(raw)))
    np.testing.assert_allclose(np.exp(logprobs), probability[np.asarray(tokens)], rtol=1e-5)


def test_temperature_zero_is_greedy_among_the_allowed():
    raw = logits()
    raw[:, raw[0].argmax()] = -np.inf
    sampling = SlotSampling.of([SamplingSettings(0.0)] * len(raw), [1] * len(raw))
    keys = sample_keys(sample_seeds(0, ["q"] * len(raw), np.arange(len(raw))))
    index = jnp.zeros(len(raw), jnp.int32)
    tokens, _ = draw(sampling_logits(raw, sampling, None, False), keys, index, sampling.temperature)
    np.testing.assert_array_equal(tokens, raw.argmax(-1))


def test_a_draw_depends_on_its_key_alone():
    raw, one = logits(), np.ones(12, np.float32)
    ids, samples = [f"q{i // 3}" for i in range(12)], [i % 3 for i in range(12)]
    keys = sample_keys(sample_seeds(7, ids, samples))
    index = jnp.arange(12)
    together, _ = draw(raw, keys, index, one)
    for row in range(12):
        alone, _ = draw(
            raw[row : row + 1],
            sample_keys(sample_seeds(7, ids[row : row + 1], samples[row : row + 1])),
            index[row : row + 1],
            one[:1],
        )
        assert alone[0] == together[row]
    assert len({tuple(key) for key in np.asarray(keys).tolist()}) == 12


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"repetition_penalty": 0.0},
        {"max_turn_tokens": 0},
        {"stop_strings": "end"},
        {"stop_strings": ("",)},
        {"later": SamplingSettings(later=SamplingSettings())},
        {"stop_strings": ("a",), "later": SamplingSettings(stop_strings=("b",))},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
    ],
)
def test_settings_out_of_range_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        SamplingSettings(**setting)
