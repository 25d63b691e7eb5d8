"""Batches come in order, made ahead, and the state is that of what was given."""

import threading

import grain
import pytest

from data_pipeline.batch_loader import BatchLoader, LoaderSettings, Unreadable
from pixel_reasoner_jax.training.feed import Feed


def stream(bad: int | None = None) -> BatchLoader:
    numbers = grain.MapDataset.range(10**6).map(lambda n: Unreadable(f"record {n}") if n == bad else n)
    return BatchLoader({0: numbers}, 2, LoaderSettings(max_unreadable=0.02))


def test_batches_come_in_order_and_are_made_ahead():
    caller, threads, read = threading.get_ident(), {"plan": set(), "agree": set(), "build": set()}, []

    def plan(some):
        threads["plan"].add(threading.get_ident())
        read.append(some[0])
        return some[0]

    def agree(planned):
        threads["agree"].add(threading.get_ident())

        def build():
            threads["build"].add(threading.get_ident())
            return [10 * number for number in planned]

        return build

    source = stream()
    with Feed(source, plan, agree, 5) as feed:
        states = [feed.get_state()]
        for number, batches in enumerate(feed):
            assert batches == [20 * number, 20 * number + 10]
            assert len(read) >= min(number + 2, 5)  # the next one has been read
            states.append(feed.get_state())
    assert [state["0"]["used"] for state in states] == [0, 2, 4, 6, 8, 10]
    assert len(read) == 5  # and no more than was to be asked for
    assert threads["agree"] == {caller} and caller not in threads["plan"] | threads["build"]
    assert source.get_state() == states[-1]


def test_a_run_that_goes_on_reads_what_was_read_ahead_again():
    def batches(source, updates):
        with Feed(source, lambda some: some[0], lambda planned: lambda: planned, updates) as feed:
            return list(feed), feed.get_state(), feed.skipped

    whole, _, skipped = batches(stream(bad=5), 6)
    assert skipped == 1
    first = stream(bad=5)
    with Feed(first, lambda some: some[0], lambda planned: lambda: planned, 6) as feed:
        begun = [next(feed) for _ in range(2)]
        state = feed.get_state()
        assert feed.skipped == 0
    second = stream(bad=5)
    second.set_state(state)
    assert begun + batches(second, 4)[0] == whole


def test_an_error_of_a_thread_is_the_callers():
    def plan(some):
        if some[0][0] >= 4:
            raise ValueError("too long")
        return some[0]

    with pytest.raises(ValueError, match="too long"), Feed(stream(), plan, lambda planned: lambda: planned, 9) as feed:
        list(feed)
