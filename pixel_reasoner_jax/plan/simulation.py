"""Simulates the rollout of an episode: which responses are in flight, in which pages, and how long its calls take.

It does what the scheduler does, with lengths in place of tokens and least times in place of devices. In turn, until all
responses have ended,

    responses that wait for pages come back, the oldest first; samples of queries begin, where slot and pages are free
    observations are appended to the responses whose turns have ended
    every response in flight gets the pages that it can need in a call; where there are none, the youngest one waits
    a call samples up to `decode_steps` tokens for all others; it ends early where the scheduler's does (`PATIENCE`)

All parts of the mesh make the same calls at the same time: the part with most to do sets the time. Operations, loading
and the host's work take no time here.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from pixel_reasoner_jax.buckets import bucket
from pixel_reasoner_jax.plan.lengths import Group
from pixel_reasoner_jax.plan.page_pool import PagePool
from pixel_reasoner_jax.plan.rollout_costs import Bounded, RolloutCosts
from pixel_reasoner_jax.rollout.capacity import Capacity, pages_of
from pixel_reasoner_jax.rollout.pages import RESERVED
from pixel_reasoner_jax.rollout.scheduler import PATIENCE
from pixel_reasoner_jax.rollout.shapes import CHUNK, Shapes

QUEUED, SAMPLING, OBSERVING, ENDED = range(4)
CALLS = ("encode", "prefill", "decode", "swap")


@dataclasses.dataclass
class Rollout:
    """What the rollout of an episode takes.

    Attributes:
      seconds: for each of `CALLS`, the seconds that each rate bounds.
      sampled, prefilled: tokens.
      steps: decoding steps.
      in_flight: most responses in flight at a time, in all parts.
      waits: how often a response was made to wait for pages.
      swapped: pages that were moved to the host and back, both ways counted.
      tail_seconds, tail_steps, tail_sampled: seconds, steps and tokens since the last response has begun.
      used: share of the pools that held tokens, on average over the steps before that; None if there were none.
      free: pages that are free at the end, in every part.
    """

    seconds: dict[str, collections.Counter[str]]
    sampled: int = 0
    prefilled: int = 0
    steps: int = 0
    in_flight: int = 0
    waits: int = 0
    swapped: int = 0
    tail_seconds: float = 0.0
    tail_steps: int = 0
    tail_sampled: int = 0
    used: float | None = None
    free: tuple[int, ...] = ()

    def seconds_of(self, *calls: str) -> float:
        return sum(sum(self.seconds[name].values()) for name in calls or CALLS)


@dataclasses.dataclass(frozen=True)
class Addition:
    """Tokens to append to a response after `start` others, with their images."""

    part: int
    tokens: int
    start: int
    images: tuple[int, ...]


def simulate(
    groups: Sequence[Group],
    costs: RolloutCosts,
    shapes: Shapes,
    capacity: Capacity,
    hosts: Sequence[int],
    decode_steps: int,
    longest: int,
) -> Rollout:
    """Simulates the rollout of an episode.

    Args:
      groups: its queries, in order.
      costs: of the calls.
      shapes: the declared shapes in a part of the mesh.
      capacity: slots and pages of a part.
      hosts: for every part, the host that feeds it: each host rolls out an equal share of the queries.
      decode_steps: most tokens of a response that a call samples.
      longest: tokens that a response may have, prompt included.
    """
    simulation = _Simulation(groups, costs, shapes, capacity, hosts, decode_steps, longest)
    while not simulation.is_over:
        simulation.step()
    return simulation.result()


class _Simulation:
    """See `simulate`. Responses are numbered group by group; those without a turn, which take no slot, are left out."""

    def __init__(self, groups, costs, shapes, capacity, hosts, decode_steps, longest):
        self._costs, self._shapes, self._capacity, self._decode_steps = costs, shapes, capacity, decode_steps
        self._groups = [group for group in groups if any(group.responses)]
        self._turns = [turns for group in self._groups for turns in group.responses if turns]
        counts = np.array([sum(map(bool, group.responses)) for group in self._groups], int)
        prompts = np.array([group.prompt for group in self._groups], int)
        self._pool = PagePool(prompts, counts, len(hosts), capacity.pages, longest)
        self._end = np.cumsum(counts)  # number of the response after each group's last
        self._state, self._turn, self._left = np.zeros((3, len(self._turns)), int)
        self._free_slots = np.full(len(hosts), capacity.slots)
        self._beginning: list[int | None] = [None] * len(hosts)  # a group that has samples to begin, in every part
        names = sorted(set(hosts))
        shares = np.array_split(np.arange(len(counts)), len(names))
        self._queues = [collections.deque(share.tolist()) for share in shares]
        self._parts_of = [[part for part, host in enumerate(hosts) if host == name] for name in names]
        self._live = []  # steps of a call, and pages that hold tokens after it, while queries wait
        self._rollout = Rollout({name: collections.Counter() for name in CALLS})

    @property
    def is_over(self) -> bool:
        return bool((self._state == ENDED).all())

    @property
    def _is_tail(self) -> bool:
        return not self._pool.unbegun.any()

    def result(self) -> Rollout:
        pool, rollout = self._pool, self._rollout
        rollout.waits, rollout.free = pool.times_waited, tuple(pool.free.tolist())
        if self._live:
            steps, pages = np.array(self._live).T
            rollout.used = float((steps * pages).sum() / steps.sum()) / (len(pool.free) * self._capacity.pages)
        return rollout

    def step(self) -> None:
        """One turn of the scheduler's loop."""
        self._bring_back()
        self._append(self._begin() + self._observe())
        self._pool.take_all(self._drawing(), self._decode_steps)
        self._spend("swap", self._costs.swap(int(self._pool.moved.max())))
        self._rollout.swapped += int(self._pool.moved.sum())
        self._pool.moved[:] = 0
        self._rollout.in_flight = max(self._rollout.in_flight, self._pool.in_flight)
        self._decode()

    def _drawing(self) -> np.ndarray:
        """The responses that are sampled."""
        return np.flatnonzero((self._state == SAMPLING) & ~self._pool.waits)

    def _spend(self, name: str, call: Bounded, times: int = 1) -> None:
        bound, seconds = call
        self._rollout.seconds[name][bound] += times * float(seconds)
        if self._is_tail:
            self._rollout.tail_seconds += times * float(seconds)

    def _bring_back(self) -> None:
        """Brings responses back that wait for pages, in the order of their age, as long as they have room."""
        pool, blocked = self._pool, set()
        for response in pool.by_age(np.flatnonzero(pool.waits)):
            part = int(pool.part[response])
            coming = self._decode_steps
            if self._state[response] == OBSERVING:
                coming += self._turns[response][self._turn[response]].observed
            if part in blocked or not pool.fits(response, part, int(pool.length[response]) + coming):
                blocked.add(part)
            else:
                pool.bring_back(response)

    def _begin(self) -> list[Addition]:
        """Begins samples, as `Admission.admit` does; returns the prompts to prefill."""
        additions: list[Addition] = []
        for queue, parts in zip(self._queues, self._parts_of, strict=True):
            while (part := self._part_with_room(queue, parts)) is not None:
                number = self._beginning[part]
                group, response = self._groups[number], self._next(number)
                if not response or self._pool.group[response - 1] != number:
                    additions.append(Addition(part, group.prompt, 0, group.images))
                self._pool.begin(response, part)
                self._state[response], self._left[response] = SAMPLING, self._turns[response][0].sampled
                self._free_slots[part] -= 1
                if not self._pool.unbegun[number]:
                    self._beginning[part] = None
        return additions

    def _next(self, group: int) -> int:
        """The response of a group that begins next."""
        return int(self._end[group] - self._pool.unbegun[group])

    def _part_with_room(self, queue: collections.deque[int], parts: Sequence[int]) -> int | None:
        """The part of a host where the next sample begins, or None: where others of its query have begun, else the one
        with most free pages. Nothing begins in a part where a response waits for pages."""
        waiting = set(self._pool.part[self._pool.waits].tolist())
        free = [part for part in parts if self._free_slots[part] and part not in waiting]
        for part in free:
            if (group := self._beginning[part]) is not None and self._has_room(group, part):
                return part
        free = [part for part in free if self._beginning[part] is None]
        if not queue or not free:
            return None
        part = max(free, key=lambda part: (self._pool.free[part], self._free_slots[part]))
        if not self._has_room(queue[0], part):
            return None
        self._beginning[part] = queue.popleft()
        return part

    def _has_room(self, group: int, part: int) -> bool:
        return self._pool.fits(self._next(group), part, self._groups[group].prompt + self._decode_steps, RESERVED)

    def _observe(self) -> list[Addition]:
        """Goes on with the responses whose turn has ended; returns the observations to append."""
        pool, additions = self._pool, []
        for response in pool.by_age(np.flatnonzero((self._state == OBSERVING) & ~pool.waits)):
            turn = self._turns[response][self._turn[response]]
            if pool.waits[response] or not pool.take(response, turn.observed):
                continue
            if turn.observed:
                start = int(pool.length[response])
                additions.append(Addition(int(pool.part[response]), turn.observed, start, turn.images))
            pool.length[response] += turn.observed
            self._turn[response] += 1
            self._left[response] = self._turns[response][self._turn[response]].sampled
            self._state[response] = SAMPLING
        return additions

    def _append(self, additions: Sequence[Addition]) -> None:
        """Encodes images and appends tokens, as `ModelRunner.extend` does; parts that need the same call share it."""
        parts, shapes = len(self._free_slots), self._shapes
        encodes, extends = ([collections.Counter() for _ in range(parts)] for _ in range(2))
        pages, products = np.zeros((2, parts))
        for addition in additions:
            encodes[addition.part].update(_patches(tokens, shapes) for tokens in addition.images)
            for start in range(0, addition.tokens, CHUNK):
                tokens = min(addition.tokens - start, CHUNK)
                extends[addition.part][shapes.width(tokens)] += 1
                before = addition.start + start
                pages[addition.part] += self._costs.reads.extend(before, tokens)
                products[addition.part] += pages_of(before) * tokens
        for patches, calls in _shared_calls(encodes, shapes.images).items():
            self._spend("encode", self._costs.encode_call(shapes.images(patches) * patches), calls)
        calls_of = _shared_calls(extends, shapes.rows)
        count = max(sum(calls_of.values()), 1)
        for width, calls in calls_of.items():
            read = pages.max() / count, products.max() / count
            self._spend("prefill", self._costs.extend_call(shapes.rows(width) * width, *read), calls)
        self._rollout.prefilled += sum(addition.tokens for addition in additions)

    def _decode(self) -> None:
        """Samples a chunk of tokens, and ends the turns and the responses that are complete."""
        pool, rollout, drawing = self._pool, self._rollout, self._drawing()
        left, before, groups = self._left[drawing], pool.length[drawing], pool.group[drawing]
        patience = max(1, len(drawing) // PATIENCE)
        steps = int(min(self._decode_steps, np.partition(left, patience - 1)[patience - 1]))
        taken = np.minimum(left, steps)
        reads, parts, of_part = self._costs.reads, len(pool.free), pool.part[drawing]
        read = reads.decode(before, taken, pool.full[groups], groups, steps, self._decode_steps)
        idle = steps * self._capacity.slots - np.bincount(of_part, taken, parts)
        read = np.bincount(of_part, read, parts) + reads.idle(idle)
        self._spend("decode", self._costs.decode_call(steps, float(read.max())))
        rollout.steps += steps
        rollout.sampled += int(taken.sum())
        if self._is_tail:
            rollout.tail_steps += steps
            rollout.tail_sampled += int(taken.sum())
        else:
            own = pages_of(before + taken) - pool.full[groups]
            self._live.append((steps, int(own.sum()) + pool.prompt_pages))
        pool.length[drawing] += taken
        self._left[drawing] -= taken
        for response in drawing[left == taken].tolist():
            if self._turn[response] + 1 < len(self._turns[response]):
                self._state[response] = OBSERVING
            else:
                self._state[response] = ENDED
                pool.end(response)
                self._free_slots[pool.part[response]] += 1


def _patches(tokens: int, shapes: Shapes) -> int:
    """Patches in the row that an image of so many tokens is encoded in."""
    return bucket(tokens * shapes.geometry.merge_size**2, shapes.geometry.window_patches)


def _shared_calls(of_parts: Sequence[collections.Counter[int]], rows_of: Callable[[int], int]) -> dict[int, int]:
    """Calls of each size: as many as the part needs that has most of the size."""
    sizes = sorted({size for counts in of_parts for size in counts})
    return {size: max(-(-counts[size] // rows_of(size)) for counts in of_parts) for size in sizes}
