"""Rows: every sequence whole and once, few padding tokens, samples of a query together."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import packing
from pixel_reasoner_jax.training.rows import _fill, arrange, real_share, split_by_tokens


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 5)), max_size=60),
    st.integers(1, 5),
    st.integers(1000, 1500),
)
def test_every_sequence_is_in_one_row_that_has_room(sequences, rows, row_length):
    lengths, groups = [s[0] for s in sequences], [s[1] for s in sequences]
    batches = arrange(lengths, groups, rows, row_length)
    placed = [index for batch in batches for row in batch.rows for index in row]
    assert sorted(placed) == list(range(len(sequences)))
    for batch in batches:
        assert 0 < len(batch.rows) <= rows and batch.row_length <= row_length
        assert all(sum(lengths[index] for index in row) <= batch.row_length for row in batch.rows)
    assert all(batch.row_length == row_length for batch in batches[:-1])
    assert arrange(lengths, groups, rows, row_length) == batches


@given(st.lists(st.integers(1, 12), max_size=8), st.integers(0, 40))
def test_a_row_is_filled_as_far_as_any_choice_fills_it(lengths, room):
    sums = [sum(choice) for size in range(len(lengths) + 1) for choice in itertools.combinations(lengths, size)]
    chosen = _fill(lengths, room, room)
    assert sum(lengths[place] for place in chosen) == max(total for total in sums if total <= room)
    assert chosen == sorted(set(chosen))


def test_what_fills_a_row_is_taken_from_near_by():
    assert _fill([30, 60, 40, 10, 100], room=100, enough=95) == [1, 2]
    assert _fill([30, 60, 40, 10, 100], room=100, enough=90) == [0, 1]


def test_the_last_rows_are_only_as_long_as_they_must():
    (batch,) = arrange([300] * 4, [0] * 4, 4, 4096)
    assert batch.row_length == 512 and batch.rows == [[0], [1], [2], [3]]
    first, last = arrange([4000] * 4 + [500], [*range(5)], 4, 4096)
    assert (first.row_length, last.row_length) == (4096, 512)


@pytest.mark.parametrize("phase", packing.BATCHES)
@pytest.mark.parametrize("rows", [1, 8])
def test_almost_all_tokens_of_realistic_updates_are_real(phase, rows):
    figures = packing.measure(phase, rows)
    assert figures["least"] >= 0.95 and figures["real"] > figures["first_fit"] + 0.05
    if rows == 8:  # the samples of a query share its image
        assert figures["encodes"] < 1.5


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 20))
def test_runs_have_about_as_many_tokens_each(lengths, count):
    runs = split_by_tokens(lengths, count)
    assert len(runs) == count and [n for run in runs for n in lengths[run]] == lengths
    longest, mean = max(lengths, default=0), sum(lengths) / count
    assert all(abs(sum(lengths[run]) - mean) <= longest for run in runs)


def test_one_run_is_everything():
    assert split_by_tokens([3, 1, 2], 1) == [slice(0, 3)] and split_by_tokens([], 2) == [slice(0, 0)] * 2


def test_the_share_counts_rows_without_a_sequence():
    assert real_share([4096, 4096, 2048], arrange([4096, 4096, 2048], [0, 1, 2], 2, 4096), 2) == 10240 / 12288
