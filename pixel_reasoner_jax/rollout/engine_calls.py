"""One order of engine calls for all parts of a mesh.

All devices of a mesh must run the same programs in the same order, though its parts have different slots to fill. So
each part queues the calls that it needs, all processes merge the queues into one order that keeps the order of every
queue, and a part that does not need a call takes part in it with padding alone.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pixel_reasoner_jax.parallel.hosts import all_gather

KINDS = ("encode", "extend", "fork", "save", "load")
MAX_CALLS = 63  # calls of one part that the processes exchange at a time

ProgramKey = tuple[int, int]
"""Names the compiled program of a call: the index of the call's kind in `KINDS`, and the call's size."""


class EngineCall(NamedTuple):
    """A call of the engine that one part of the mesh needs.

    Attributes:
      kind: one of `KINDS`.
      size: of the compiled program: patches in a row of an encode, tokens in a row of an extend, or number of forks or
        pages.
      arguments: pytree of numpy arrays, whose first axis is the part's rows of the call.
      receive: called with the part's rows of the result, of a kind that has one.
    """

    kind: str
    size: int
    arguments: Any
    receive: Callable[[Any], None] | None = None

    @property
    def program(self) -> ProgramKey:
        return KINDS.index(self.kind), self.size


def common_order(queues: Sequence[Sequence[ProgramKey]]) -> list[ProgramKey]:
    """Merges the parts' queues into one list of calls that contains each queue in its order.

    A call that is at the head of several queues is made once for all of them.
    """
    pending = [collections.deque(queue) for queue in queues if queue]
    order = []
    while pending:
        heads = collections.Counter(queue[0] for queue in pending)
        later = collections.Counter(program for queue in pending for program in heads.keys() & set(queue) - {queue[0]})
        # A program that is further back in other queues waits for these; of the rest, the one at most heads is next.
        chosen = min(heads, key=lambda program: (later[program], -heads[program], program))
        for queue in pending:
            if queue[0] == chosen:
                queue.popleft()
        pending = [queue for queue in pending if queue]
        order.append(chosen)
    return order


def exchange(
    queues: Sequence[Sequence[ProgramKey]], status: Sequence[int], shared: bool
) -> tuple[list[list[ProgramKey]], np.ndarray]:
    """All-gathers the next calls of the parts of each process, and a status of each process.

    Args:
      queues: for each part of this process its next calls, `MAX_CALLS` of them at most.
      status: small integers, as many on all processes.
      shared: whether other processes have parts of the mesh too.

    Returns:
      The queues of the parts of all processes, and the statuses, int32 [processes, len(status)].
    """
    message = np.full((len(queues), MAX_CALLS, 2), -1, np.int32)
    for row, queue in zip(message, queues, strict=True):
        row[: len(queue)] = np.array(queue, np.int32).reshape(-1, 2)
    status = np.array(status, np.int32)
    sent = np.concatenate([status, message.reshape(-1)])
    received = all_gather(sent) if shared else sent[None]
    padded = received[:, len(status) :].reshape(-1, MAX_CALLS, 2).tolist()
    return [[tuple(key) for key in queue if key[0] >= 0] for queue in padded], received[:, : len(status)]
