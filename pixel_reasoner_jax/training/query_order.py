"""The queries of an episode in one order, however many processes serve them."""

from __future__ import annotations

import jax
import numpy as np

from pixel_reasoner_jax.parallel import all_gather


class QueryOrder:
    """The queries of an episode in all processes, shard by shard. All processes make one together.

    Args:
      numbers: int [queries of this process], the virtual shard that each belongs to; as many in every process.

    Attributes:
      shards: int [all queries], the shard of each, ascending.
      own: int [queries of this process], where each of them is among all.
    """

    def __init__(self, numbers: np.ndarray):
        gathered = all_gather(np.asarray(numbers, np.int32)).ravel()
        self._order = np.argsort(gathered, kind="stable")
        self.shards = gathered[self._order]
        first = jax.process_index() * len(numbers)
        self.own = np.argsort(self._order)[first : first + len(numbers)]

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Values of this process's queries, [queries of this process, ...], in exchange for those of all queries."""
        values = np.ascontiguousarray(values)
        # As bytes: 64-bit numbers would be rounded to 32 bits on their way.
        gathered = np.ascontiguousarray(all_gather(values.view(np.uint8).reshape(len(values), -1)))
        return gathered.view(values.dtype).reshape(-1, *values.shape[1:])[self._order]

    def first(self, chosen: np.ndarray, count: int) -> np.ndarray:
        """The first `count` of the queries that are chosen, bool [all queries]; those that their shards read first."""
        _, starts, sizes = np.unique(self.shards, return_index=True, return_counts=True)
        place = np.arange(len(self.shards)) - np.repeat(starts, sizes)
        by_place = np.argsort(place, kind="stable")
        result = np.zeros(len(self.shards), bool)
        result[by_place[chosen[by_place]][:count]] = True
        return result
