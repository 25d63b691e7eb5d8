"""Weights and marks of tokens, one by one in plain loops; and the check values that others publish."""

from __future__ import annotations

import types

import numpy as np
import pytest

from pixel_reasoner_jax import config_values
from pixel_reasoner_jax.training import token_weights
from pixel_reasoner_jax.training.token_weights import (
    AGGREGATIONS,
    CORRECTIONS,
    Size,
    clipped,
    covariances,
    drawn_between,
    sequence_means,
    sequence_ratios,
    top_share,
)

LENGTHS = np.array([3, 1, 0, 6])  # among them a sequence of one token, and one without
SIZE = Size.of(LENGTHS)


def test_the_parts_are_those_that_a_config_may_name():
    assert tuple(AGGREGATIONS) == config_values.AGGREGATIONS
    assert ("auto", "none", *CORRECTIONS) == config_values.CORRECTIONS


def by_sequence(values):
    return np.split(values, np.cumsum(LENGTHS)[:-1])


def test_aggregations_weigh_the_mean_over_tokens():
    assert (SIZE.tokens, SIZE.sequences) == (10, 3)
    losses = np.random.default_rng(0).normal(size=10)
    sums, means = zip(*((part.sum(), part.mean()) for part in by_sequence(losses) if len(part)), strict=True)
    wanted = {"token_mean": losses.mean(), "sequence_mean": np.mean(means), "constant_length": np.mean(sums) / 50}
    for name, value in wanted.items():
        weights = AGGREGATIONS[name](LENGTHS, SIZE, types.SimpleNamespace(constant_length=50))
        np.testing.assert_allclose((losses * np.repeat(weights, LENGTHS)).mean(), value, rtol=1e-12, err_msg=name)


def test_corrections_weigh_tokens_by_the_trainer_s_probability_to_the_sampler_s():
    log_ratios = np.random.default_rng(1).normal(scale=0.6, size=10)
    log_ratios[[0, 3, 9]] = -300.0, 0.2, 300.0  # no infinities
    ratios = np.exp(np.clip(log_ratios, -20, 20))
    bounds = 0.5, 2.0
    np.testing.assert_allclose(CORRECTIONS["tis"](log_ratios, LENGTHS, bounds), [min(r, 2.0) for r in ratios])
    np.testing.assert_allclose(
        CORRECTIONS["mis"](log_ratios, LENGTHS, bounds), [r if 0.5 <= r <= 2 else 0 for r in ratios]
    )
    means = [part.mean() if len(part) else 0.0 for part in by_sequence(log_ratios)]
    wanted = np.repeat([float(0.5 <= np.exp(min(mean, 20)) <= 2) for mean in means], LENGTHS)
    np.testing.assert_array_equal(CORRECTIONS["geometric"](log_ratios, LENGTHS, bounds), wanted)
    assert 0 < wanted.sum() < 10


def test_corrections_of_sequences_weigh_all_of_their_tokens_by_the_product_of_the_ratios():
    log_ratios = np.array([0.5, -0.4, 0.3, -300.0, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1])  # sums 0.4, -300, 0.9
    products = np.exp([0.4, -20.0, 0.9])
    bounds = 0.5, 2.0
    np.testing.assert_allclose(
        CORRECTIONS["sequence_tis"](log_ratios, LENGTHS, bounds), np.repeat([products[0], products[1], 2.0], [3, 1, 6])
    )
    np.testing.assert_allclose(
        CORRECTIONS["sequence_mis"](log_ratios, LENGTHS, bounds), np.repeat([products[0], 0.0, 0.0], [3, 1, 6])
    )


def test_a_token_is_clipped_where_it_has_gone_its_advantage_s_way():
    ratios = np.log([1.36, 1.34, 0.79, 0.81, 1.36, 0.79, 2.0, 0.1])
    advantages = np.array([1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 0.0, 0.0])
    assert clipped(ratios, advantages, 0.2, 0.35).tolist() == [True, False, True, False, False, False, False, False]


def test_check_values():
    one = np.array([1])
    ratio = np.array([-1.0 - -2.0])  # of the trainer's log-probability -1 to the sampler's -2
    assert CORRECTIONS["tis"](ratio, one, (0.5, 2.0)) == 2.0 and CORRECTIONS["mis"](ratio, one, (0.5, 2.0)) == 0.0
    deltas = np.array([0.1, -0.1, 0.3])
    np.testing.assert_allclose(sequence_ratios(deltas, np.zeros(3), np.array([3])), [1.1052] * 3, atol=5e-5)


def test_sequence_ratios_are_geometric_means():
    rng = np.random.default_rng(2)
    old, new = rng.normal(size=(2, 10)).astype(np.float32)
    new[4:] += 100.0  # clipped, and not infinite
    wanted = [np.exp(min(part.mean(), 20)) for part in by_sequence(new.astype(float) - old) if len(part)]
    np.testing.assert_allclose(sequence_ratios(new, old, LENGTHS), np.repeat(wanted, [3, 1, 6]), rtol=1e-6)
    np.testing.assert_array_equal(sequence_means(np.zeros(0), np.zeros(2, int)), [0, 0])


def test_covariances_are_about_the_means_of_the_update():
    rng = np.random.default_rng(3)
    logprobs, advantages = rng.normal(size=(2, 10))
    wanted = [(a - advantages.mean()) * (lp - logprobs.mean()) for a, lp in zip(advantages, logprobs, strict=True)]
    np.testing.assert_allclose(covariances(logprobs, advantages, SIZE), wanted, rtol=1e-12)


def test_the_top_share_is_counted_over_the_update_and_is_one_token_at_least():
    values = np.array([0.1, 0.5, 0.3, 0.5, 0.2, 0.0, 0.4, 0.35, 0.9, 0.05])
    np.testing.assert_array_equal(np.flatnonzero(top_share(values, 0.2, SIZE)), [1, 3, 8])  # equal ones count
    np.testing.assert_array_equal(np.flatnonzero(top_share(values, 0.0002, SIZE)), [8])
    assert top_share(values, 1.0, SIZE).all() and top_share(values, 0.3, SIZE).sum() == 3
    assert not len(top_share(np.zeros(0), 0.2, SIZE))  # a process without tokens


def test_tokens_are_drawn_within_the_bounds_alone():
    values = np.concatenate([np.full(40, 3.0), [1.0, 5.0, 0.0, 9.0], np.full(56, 0.5)])
    size, shards = Size(100, 4), np.repeat([0, 1], 50)
    drawn = drawn_between(values, (1.0, 5.0), 0.1, size, shards, (0, 7))
    assert drawn.sum() == 10 and not drawn[40:].any()
    np.testing.assert_array_equal(drawn, drawn_between(values, (1.0, 5.0), 0.1, size, shards, (0, 7)))
    assert (drawn != drawn_between(values, (1.0, 5.0), 0.1, size, shards, (0, 8))).any()  # another update
    assert drawn_between(values, (1.0, 5.0), 0.0002, size, shards, (0, 7)).sum() == 1
    assert drawn_between(values, (1.0, 5.0), 0.9, size, shards, (0, 7)).sum() == 40  # all that there are
    assert not drawn_between(values, (10.0, 50.0), 0.1, size, shards, (0, 7)).any()


@pytest.mark.parametrize("served", [[[0], [1], [2]], [[0, 2], [1]], [[2], [], [0, 1]]])
def test_what_is_chosen_does_not_depend_on_who_serves_the_shards(monkeypatch, served):
    """Processes in place of which one after the other computes; what they exchange is that of all together."""
    rng = np.random.default_rng(4)
    of_shard = {shard: rng.normal(size=(2, 30)).astype(np.float32) for shard in range(3)}
    together = np.concatenate([of_shard[shard] for shard in range(3)], axis=1)
    size, shards = Size(90, 9), np.repeat(np.arange(3), 30)

    def chosen(arrays, shards):
        covariance = covariances(*arrays, size)
        drawn = drawn_between(covariance, (0.1, 2.0), 0.1, size, shards, (0, 1))
        shares = [top_share(values, 0.1, size) for values in (covariance, covariance - 50.0)]  # negative ones too
        return np.stack([covariance, *shares, drawn])

    wanted = chosen(together, shards)
    assert wanted[3].sum() == 9
    processes = [np.concatenate([np.zeros((2, 0)), *(of_shard[s] for s in some)], axis=1) for some in served]
    shards_of = [np.repeat(np.array(some, int), 30) for some in served]
    exchanged: list[list] = []

    def gather(values):  # the first passes find out what each process gives
        calls.append(values)
        known = exchanged[len(calls) - 1] if len(calls) <= len(exchanged) else [values] * len(processes)
        return np.stack(known)

    monkeypatch.setattr(token_weights, "all_gather", gather)
    for _ in range(5):  # each exchange depends on those before it
        given = []
        for arrays, mine in zip(processes, shards_of, strict=True):
            calls: list = []
            chosen(arrays, mine)
            given.append(calls)
        exchanged = [list(values) for values in zip(*given, strict=True)]
    for arrays, mine in zip(processes, shards_of, strict=True):
        calls = []
        order = [np.flatnonzero(shards == shard) for shard in dict.fromkeys(mine.tolist())]
        expected = wanted[:, np.concatenate([np.zeros(0, int), *order])]
        np.testing.assert_allclose(chosen(arrays, mine), expected, rtol=1e-5, atol=1e-6)
