"""In which order the engine is called.

The devices of a mesh run the same programs in the same order, whatever each of its parts has to do. So every part says
what it wants, all agree on an order that holds each part's wishes in their own order, and a part that has no use for a
call takes part in it with padding.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pixel_reasoner_jax.parallel.hosts import gather

KINDS = ("encode", "extend", "fork")
TOGETHER = 63  # calls of a part that are agreed on at a time

Name = tuple[int, int]
"""Number of the kind, and the size, of a call."""


class Call(NamedTuple):
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
    def name(self) -> Name:
        return KINDS.index(self.kind), self.size


def common_order(wishes: Sequence[Sequence[Name]]) -> list[Name]:
    """Calls that hold every list of wishes in its own order, those that meet made once."""
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
    wishes: Sequence[Sequence[Name]], status: Sequence[int], joined: bool
) -> tuple[list[list[Name]], np.ndarray]:
    """Tells all processes what the parts of this one want next, and how it is.

    Args:
      wishes: at most `TOGETHER` for each part.
      status: small integers, as many on all processes.
      joined: there are others.

    Returns:
      The wishes of the parts of all processes, and int [processes, len(status)].
    """
    message = np.full((len(wishes), TOGETHER, 2), -1, np.int32)
    for row, wish in zip(message, wishes, strict=True):
        row[: len(wish)] = np.array(wish, np.int32).reshape(-1, 2)
    status = np.array(status, np.int32)
    own = np.concatenate([status, message.reshape(-1)])
    told = gather(own) if joined else own[None]
    lists = told[:, len(status) :].reshape(-1, TOGETHER, 2).tolist()
    return [[tuple(name) for name in one if name[0] >= 0] for one in lists], told[:, : len(status)]
