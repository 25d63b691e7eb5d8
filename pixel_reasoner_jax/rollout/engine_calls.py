"""One order of calls of the engine for all parts of a mesh.

The devices of a mesh must run the same programs in the same order, though its parts have different slots to fill. So
every part names the calls that it wants to make, all processes merge these lists into one that keeps the order of each,
and a part that does not need a call makes it with nothing but padding.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pixel_reasoner_jax.parallel.hosts import all_gather

KINDS = ("encode", "extend", "fork")
MAX_WISHES = 63  # calls of a part that are agreed on at a time

CallName = tuple[int, int]
"""A call without its load: the index of its kind in `KINDS`, and its size. It names a compiled program."""


class EngineCall(NamedTuple):
    """A call of the engine that one part of the mesh wants.

    Attributes:
      kind: one of `KINDS`.
      size: of its program: patches in a row of an encode, tokens in a row of an extend, or number of forks.
      load: the arguments, arrays with a leading axis of rows.
    """

    kind: str
    size: int
    load: Any

    @property
    def name(self) -> CallName:
        return KINDS.index(self.kind), self.size


def common_order(wishes: Sequence[Sequence[CallName]]) -> list[CallName]:
    """One list of calls that contains every list of wishes in order; a call that is next for several is made once."""
    left = [collections.deque(wish) for wish in wishes if wish]
    order = []
    while left:
        heads = collections.Counter(wish[0] for wish in left)
        later = collections.Counter(name for wish in left for name in heads.keys() & set(wish) - {wish[0]})
        # What others want later waits for them; else what most want now.
        chosen = min(heads, key=lambda name: (later[name], -heads[name], name))
        for wish in left:
            if wish[0] == chosen:
                wish.popleft()
        left = [wish for wish in left if wish]
        order.append(chosen)
    return order


def exchange(
    wishes: Sequence[Sequence[CallName]], status: Sequence[int], joined: bool
) -> tuple[list[list[CallName]], np.ndarray]:
    """All-gathers the calls that the parts of each process want next, and a status of each process.

    Args:
      wishes: a list for each part of this process, of `MAX_WISHES` calls at most.
      status: small integers, as many on all processes.
      joined: whether there are other processes.

    Returns:
      The wishes of the parts of all processes, and int [processes, len(status)].
    """
    message = np.full((len(wishes), MAX_WISHES, 2), -1, np.int32)
    for row, wish in zip(message, wishes, strict=True):
        row[: len(wish)] = np.array(wish, np.int32).reshape(-1, 2)
    status = np.array(status, np.int32)
    sent = np.concatenate([status, message.reshape(-1)])
    told = all_gather(sent) if joined else sent[None]
    lists = told[:, len(status) :].reshape(-1, MAX_WISHES, 2).tolist()
    return [[tuple(name) for name in one if name[0] >= 0] for one in lists], told[:, : len(status)]
