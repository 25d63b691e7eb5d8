"""The same order of queries however many processes serve them."""

from __future__ import annotations

import numpy as np
import pytest

from pixel_reasoner_jax.training import query_order
from pixel_reasoner_jax.training.query_order import QueryOrder


@pytest.mark.parametrize(
    "numbers, places",
    [([[2, 2, 3, 3], [0, 0, 1, 1]], [[0, 1, 0, 1], [0, 1, 0, 1]]), ([[0, 2, 0, 2], [1, 3, 1, 3]], [[0, 0, 1, 1]] * 2)],
)
def test_queries_of_two_processes_are_in_the_order_of_their_shards(monkeypatch, numbers, places):
    """Values are the shard's number and the query's place in it, together a number that 32 bits cannot hold."""
    numbers = np.array(numbers)
    values = (numbers + 2.0**-40 * np.array(places))[..., None]
    for process in range(2):
        gathered = iter([numbers, values.view(np.uint8)])
        monkeypatch.setattr(query_order, "all_gather", lambda _, gathered=gathered: next(gathered))
        monkeypatch.setattr(query_order.jax, "process_index", lambda process=process: process)
        order = QueryOrder(numbers[process])
        assert order.shards.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        everything = order.gather(values[process])
        assert everything.dtype == np.float64 and (np.diff(everything[:, 0]) > 0).all()
        np.testing.assert_array_equal(everything[order.own], values[process])


def test_one_process_has_its_own_order_of_any_type():
    order = QueryOrder(np.array([1, 0, 1]))
    for values in (np.arange(3), np.array([True, False, True]), np.arange(12.0).reshape(3, 4)[:, ::2]):
        np.testing.assert_array_equal(order.gather(values), values[[1, 0, 2]])
        np.testing.assert_array_equal(order.gather(values)[order.own], values)
