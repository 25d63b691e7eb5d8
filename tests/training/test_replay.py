"""Which responses the updates train on: the forms of replay against what they say, and the draws against numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixel_reasoner_jax.config_values import REPLAY
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.training.replay import (
    METHODS,
    Candidates,
    choose_responses,
    draw_probabilities,
    planned_responses,
    replayed_share,
)


def candidates(advantages, shards=1, correct=0.0, trained=None, **settings) -> Candidates:
    """As many responses of each shard, 10 tokens long."""
    advantages = np.asarray(advantages, np.float32)
    settings = {"updates": 4, "batch_size": 8, **settings}
    return Candidates(
        advantages,
        advantages != 0 if trained is None else np.asarray(trained),
        np.broadcast_to(correct, advantages.shape),
        np.full(len(advantages), 10),
        np.repeat(np.arange(shards), len(advantages) // shards),
        **settings,
    )


def sparse(count: int, effective: int, seed: int = 0) -> np.ndarray:
    """Advantages of `count` responses, all but `effective` of them 0."""
    random = np.random.default_rng(seed)
    advantages = np.zeros(count, np.float32)
    advantages[random.choice(count, effective, replace=False)] = random.uniform(0.1, 2, effective)
    return advantages * random.choice([-1, 1], count)


def test_the_methods_are_those_that_a_config_may_name():
    assert tuple(METHODS) == REPLAY


def test_probabilities_of_draws():
    np.testing.assert_allclose(draw_probabilities([0.5, -1, 1.5], 1.0), [1 / 6, 1 / 3, 1 / 2])
    np.testing.assert_allclose(draw_probabilities([0.5, 1, -1.5], 2.0), np.array([0.25, 1, 2.25]) / 3.5)
    np.testing.assert_allclose(draw_probabilities([0.0, 1, -3], 0.0), [0, 0.5, 0.5])  # no advantage is never drawn
    np.testing.assert_allclose(draw_probabilities([1e-30, -1e30], 20.0), [0, 1])


def test_draws_follow_their_probabilities():
    drawn = choose_responses("paper", candidates([0.5, 0, -1, 1.5], updates=1, batch_size=60_003))[0]
    assert drawn[:3].tolist() == [0, 2, 3]  # the fresh ones
    np.testing.assert_allclose(np.bincount(drawn[3:]) / 60_000, [1 / 6, 0, 1 / 3, 1 / 2], atol=0.01)


def test_nothing_is_drawn_where_no_response_is_missing():
    given = candidates(np.linspace(0.1, 1, 32))
    updates = choose_responses("paper", given)
    assert [len(update) for update in updates] == [8] * 4
    assert sorted(np.concatenate(updates)) == list(range(32)) and replayed_share(updates) == 0


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_planned_update_is_full_and_the_fresh_ones_are_spread_over_them(shards):
    given = candidates(sparse(64, 11), shards, updates=8)
    updates = choose_responses("paper", given)
    assert [len(update) for update in updates] == [8] * 8
    effective = np.flatnonzero(given.advantages)
    assert set(np.concatenate(updates)) == set(effective)
    fresh = [update[: 2 if number < 3 else 1] for number, update in enumerate(updates)]  # 11 over 8
    assert sorted(np.concatenate(fresh)) == effective.tolist()
    assert replayed_share(updates) == pytest.approx(1 - 11 / 64)


def test_every_update_has_its_share_of_each_shard_however_many_a_shard_has():
    """Three responses with an advantage in the first shard, and nine in the second."""
    advantages = np.concatenate([[1, 1, 1], np.zeros(9), [1] * 9, np.zeros(3)])
    updates = choose_responses("paper", candidates(advantages, 2, updates=3, batch_size=4))
    assert [(update < 12).sum() for update in updates] == [1, 1, 1] and replayed_share(updates) == 0


def test_draws_are_the_episodes_own():
    """They follow from the seed, the episode and the update, and from nothing else."""
    given = candidates(sparse(64, 5), updates=8, seed=(3, 1))
    first = choose_responses("paper", given)
    assert all(map(np.array_equal, first, choose_responses("paper", given)))
    other = choose_responses("paper", dataclasses.replace(given, seed=(3, 2)))
    assert not all(map(np.array_equal, first, other))
    assert not np.array_equal(first[6], first[7])


@given(st.integers(0, 64), st.sampled_from([1, 2, 8]), st.integers(1, 9), st.integers(1, 20), st.sampled_from(REPLAY))
def test_only_responses_with_an_advantage_are_trained_on(effective, shards, updates, batch_size, method):
    given = candidates(sparse(64, effective), shards, updates=updates, batch_size=batch_size, samples=4)
    chosen = choose_responses(method, given)
    if not effective or (method == "pairs" and not chosen):
        assert chosen == []
        return
    assert given.trained[np.concatenate(chosen)].all()
    if method not in ("release", "pairs"):  # which draw all, or choose
        assert set(np.concatenate(chosen)) == set(np.flatnonzero(given.trained))


def test_without_replay_the_responses_fill_fewer_updates():
    updates = choose_responses("none", candidates(sparse(64, 11), 2, updates=8))
    assert len(updates) == 2 and sum(map(len, updates)) == len(np.unique(np.concatenate(updates))) == 11


def test_pairs_stay_together():
    """Of six queries in two shards: two responses that may be trained on and differ, or none."""
    advantages = [
        [0.5, 2.0, -1.0],
        [1.0, 0.0, 1.0],
        [0.5, 0.5, 0.5],
        [3.0, -2.0, -5.0],
        [-1.0, 0.0, 9.0],
        [0.0, 0.0, 0.0],
    ]
    trained = np.ones((6, 3), bool)
    trained[3, 2], trained[4, 1:] = False, False  # masked
    given = candidates(np.ravel(advantages), 2, trained=trained.ravel(), batch_size=2, samples=3)
    updates = choose_responses("pairs", given)
    assert sorted(map(sorted, updates)) == [[1, 2], [3, 4], [9, 10]]
    assert choose_responses("pairs", dataclasses.replace(given, samples=1)) == []
    [together] = choose_responses("pairs", dataclasses.replace(given, batch_size=6))
    assert together.tolist() == [1, 2, 3, 4, 9, 10]


def test_a_masked_response_is_never_trained_on():
    given = candidates([1.5, -0.5, -0.5, -0.5], trained=[True, True, False, False], samples=4)
    for method in METHODS:
        updates = choose_responses(method, dataclasses.replace(given, updates=2, batch_size=4))
        assert set(np.concatenate(updates)) <= {0, 1}


def test_the_release_draws_half_of_the_episode():
    """32 of 64; 20 have an advantage, and 2 right ones without add draws to theirs; 10 are filled from the buffer."""
    advantages = sparse(64, 20) * np.float32(1e-6)  # so that what is added to those of the buffer counts
    given = candidates(advantages, correct=advantages == 0, updates=4)
    planned = [planned_responses(method, 64, 8) for method in ("release", "paper", "pairs")]
    assert planned == [32, 64, 16]
    updates = choose_responses("release", given)
    assert [len(update) for update in updates] == [8] * 4
    effective = np.flatnonzero(advantages)
    size = np.abs(advantages[effective].astype(np.float64))
    random = np.random.default_rng((0, 1))
    drawn = random.choice(effective, 22, p=size / size.sum())
    filled = random.choice(effective, 10, p=(size + 1e-4) / (size + 1e-4).sum())
    np.testing.assert_array_equal(np.concatenate(updates), [*drawn, *filled])


def test_the_release_counts_an_episode_s_responses_whatever_rounds_of_queries_it_took():
    """Dynamic sampling has asked three times as many queries, of which as many as ever may be trained on."""
    advantages = np.concatenate([np.zeros(128), sparse(64, 40)])
    updates = choose_responses("release", candidates(advantages, updates=4))
    assert [len(update) for update in updates] == [8] * 4


def test_the_release_cuts_its_pool_to_half_of_the_episode():
    updates = choose_responses("release", candidates(np.linspace(0.1, 1, 64)))
    drawn = np.concatenate(updates)
    assert len(drawn) == 32 and drawn.max() < 32


def first_two(given: Candidates) -> list[list[int]]:
    return [[0, 1]] * given.updates


def no_list(given: Candidates) -> None:
    pass


def uneven(given: Candidates) -> list:
    return [[[0, 1], [2]]]


def test_a_method_of_ones_own():
    given = candidates(np.ones(4), updates=3)
    assert [u.tolist() for u in choose_responses(f"{__name__}:first_two", given)] == [[0, 1]] * 3
    with pytest.raises(UserError, match=r"indices of responses, whole numbers from 0 to 0; it returned \[0, 1\]"):
        choose_responses(f"{__name__}:first_two", candidates([1.0]))
    with pytest.raises(UserError, match=r"indices of responses, whole .*; it returned \[\[0, 1\], \[2\]\]"):
        choose_responses(f"{__name__}:uneven", given)
    with pytest.raises(UserError, match="must return a list for each update; it returned None"):
        choose_responses(f"{__name__}:no_list", given)
    with pytest.raises(UserError, match="unknown replay method 'papre'; known: none, paper, release"):
        choose_responses("papre", given)


def test_a_method_of_ones_own_may_choose_only_what_may_be_trained_on():
    given = candidates([1.0, 0.0, 1.0], trained=[True, False, True])
    with pytest.raises(UserError, match=r"response 1, which may not be trained on \(`trained` of the candidates\)"):
        choose_responses(f"{__name__}:first_two", given)
