"""The host loop of a rollout: continuous batching of responses over slots.

A query's prompt is prefilled once and forked to its samples. A sample takes a free slot, leaves it when it is over, and
the next one takes it. Between two chunks of decoding, what the worker threads have ready (loaded queries, executed
operations) is appended to its slots; slots whose operation is still running are left out and hold up nobody.

Several processes run it in step, each with queries of its own: whatever the devices do, they do together, and a process
whose queries are done takes part until all are.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator

from pixel_reasoner_jax.operations import Call, OperationError, Registry
from pixel_reasoner_jax.processing import Media, PictureStore
from pixel_reasoner_jax.rollout.episode import Episode, Event, Limits, Observation, Prompt
from pixel_reasoner_jax.rollout.prompt import Query
from pixel_reasoner_jax.rollout.runner import Counters, Extension, ModelRunner
from pixel_reasoner_jax.rollout.runtime import Runtime
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.rollout.workers import Task, Workers
from pixel_reasoner_jax.trajectory import Trajectory

HURRY = 8  # a chunk of decoding is so many times shorter while a worker thread has something coming
GRACE = 0.005  # seconds that finished operations wait for others when there is nothing to decode
PATIENCE = 16  # a chunk of decoding ends early when one in so many of its slots has ended its turn
POLL = 0.1  # seconds between two looks for operations that take too long, with nothing to decode

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """What a rollout does with its queries; see `Policy` and `Policy.stream`.

    Attributes:
      samples: responses a query.
      seed, sampling: how tokens are drawn.
      slots: responses in flight in each part of the mesh, at most.
      registry: the operations that may be called; None for none.
      limits: where a response ends.
      guidelines: the text after the question; None for the paper's.
      workers: threads that load queries, and as many that execute operations.
      operation_seconds: an operation that takes longer has failed.
      on_event: called with every event of every response.
    """

    samples: int
    seed: int
    sampling: SamplingSettings
    slots: int
    registry: Registry | None
    limits: Limits
    guidelines: str | None
    workers: int
    operation_seconds: float
    on_event: Callable[[Event], None] | None


@dataclasses.dataclass
class Group:
    """The samples of one query.

    Attributes:
      number: of the query, in the order they were given.
      begun: samples that have been given a slot.
      home: a slot that holds the prompt. Until all samples have begun, the free slots of its part of the mesh go to no
        other query.
    """

    number: int
    prompt: Prompt
    begun: int = 0
    home: int | None = None


@dataclasses.dataclass
class ActiveSlot:
    """A slot in use.

    Attributes:
      number: of its query, in the order they were given.
      position: M-RoPE position of the next text token.
      call, task: the operation that the response waits for; None while it is being sampled.
    """

    number: int
    episode: Episode
    position: int
    call: Call | OperationError | None = None
    task: Task | None = None


class Scheduler(Iterator[tuple[int, Trajectory]]):
    """Pairs (number of the query, trajectory) of a rollout, as they finish; see `Policy.stream`, which makes it.

    Use it as a context manager, or `close` it, where it is not read to its end; on a mesh that several processes share
    all of them read to the end, or the others would wait for ever. What the policy is set to when it begins holds to
    its end.
    """

    def __init__(
        self,
        runtime: Runtime,
        queries: Iterable[Query],
        settings: RolloutSettings,
        store: PictureStore,
        counters: Counters,
    ):
        self._runtime, self._processor, self._settings = runtime, runtime.processor, settings
        self._store, self._counters = store, counters
        self._queries = enumerate(queries)
        self._runner = ModelRunner(runtime, settings.sampling, settings.seed, counters)
        self._free: list[list[int]] = [[] for _ in range(self._runner.parts)]
        self._beginning: list[Group | None] = [None] * self._runner.parts
        # Apart from each other, so that no operation waits for a query to load.
        self._loaders, self._operators = Workers(settings.workers), Workers(settings.workers)
        self._loading: dict[int, tuple[str, Task]] = {}
        self._groups: collections.deque[Group] = collections.deque()
        self._active: dict[int, ActiveSlot] = {}
        self._finished: collections.deque[tuple[int, Trajectory | BaseException]] = collections.deque()
        self._cancelled: set[str] = set()
        self._over = False  # all processes have agreed on it: none takes another step

    def __next__(self) -> tuple[int, Trajectory]:
        began = time.perf_counter()
        self._runner.check()
        try:
            while not (self._finished or self._over):
                self._over = not self._step()
        except BaseException:
            self.close()
            self._runtime.forget_table()  # it may have been interrupted between two halves of a change
            raise
        finally:
            self._counters.seconds += time.perf_counter() - began
        if not self._finished:
            self.close()
            raise StopIteration
        number, result = self._finished.popleft()
        if isinstance(result, BaseException):
            raise result
        return number, result

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def cancel(self, query_id: str) -> None:
        """Drops a query wherever it is: its slots are free at once, and none of its trajectories comes any more."""
        query_id = str(query_id)
        self._cancelled.add(query_id)
        groups = [*self._groups, *filter(None, self._beginning)]
        for prompt in [group.prompt for group in groups] + [active.episode.prompt for active in self._active.values()]:
            if prompt.id == query_id:
                self._forget(prompt)
        self._groups = collections.deque(group for group in self._groups if group.prompt.id != query_id)
        self._beginning = [group if group and group.prompt.id != query_id else None for group in self._beginning]
        for slot in [slot for slot, active in self._active.items() if active.episode.prompt.id == query_id]:
            self._release(slot)
        self._finished = collections.deque(
            one for one in self._finished if getattr(one[1], "query_id", None) != query_id
        )

    def close(self) -> None:
        """Drops all that is under way, and the cache."""
        self._queries = iter(())
        for workers in (self._loaders, self._operators):
            workers.close()
        self._loading.clear()
        self._groups.clear()
        self._beginning = [None] * self._runner.parts
        self._finished.clear()
        for slot in list(self._active):
            self._release(slot)
        self._runner.close()

    def _step(self) -> bool:
        """Goes on a little, together with all processes; False when nothing is left to do for any."""
        if self._runner.shapes is None and self._runner.joined:
            self._grow(self._settings.limits.max_length)  # all at once; `Policy.stream` has made sure that it is set
        self._load()
        self._admit()
        self._observe()
        coming = self._coming()
        busy = bool(self._active or self._groups or self._loading or any(self._beginning))
        drawing = sum(active.task is None for active in self._active.values())
        working = self._runner.working()
        told = self._runner.flush(busy, drawing, bool(coming), working)
        busy, drawing, someone_waits, working = told.sum(axis=0).tolist()
        if not drawing:
            self._wait(coming)
        elif someone_waits and working:
            # A chunk would only queue up: what comes until the device gets there can still be part of it.
            began = time.perf_counter()
            concurrent.futures.wait(coming, GRACE, concurrent.futures.FIRST_COMPLETED)
            self._counters.device_seconds += time.perf_counter() - began
        else:
            steps = self._runtime.decode_steps // (HURRY if someone_waits else 1)
            self._decode(max(1, steps), max(1, drawing // PATIENCE))
        return busy > 0

    def _coming(self) -> list[concurrent.futures.Future]:
        """Of what worker threads are at, that for which there is a slot."""
        operations = [active.task.future for active in self._active.values() if active.task is not None]
        room = any(self._free) or not self._active
        return operations + [task.future for _, task in self._loading.values() if room]

    def _wait(self, coming: list[concurrent.futures.Future]) -> None:
        """Nothing can be decoded: waits a little for a worker thread."""
        began = time.perf_counter()
        if self._runner.joined:
            time.sleep(GRACE)  # no longer: another process may have something to decode by then
        elif concurrent.futures.wait(coming, POLL, concurrent.futures.FIRST_COMPLETED).done:
            concurrent.futures.wait(coming, GRACE)
        self._counters.idle_seconds += time.perf_counter() - began

    def _load(self) -> None:
        """Has worker threads load and render the next queries: as many as the slots take, and one for each thread."""
        wanted = self._settings.workers + -(-self._settings.slots * self._runner.parts // self._settings.samples)
        ahead = wanted - len(self._loading) - len(self._groups)
        for number, query in itertools.islice(self._queries, max(0, ahead)):
            self._loading[number] = str(query["id"]), self._loaders.submit(self._build, query)

    def _build(self, query: Query) -> Prompt:
        settings = self._settings
        prompt = Prompt.build(query, self._processor, settings.registry, settings.guidelines, self._store)
        for media in prompt.rendered.media:
            if not self._runner.holds(media):
                _ = media.pixels  # which the store has ready then
        return prompt

    def _begin(self, prompt: Prompt, sample: int) -> Episode:
        settings = self._settings
        return Episode(
            prompt, sample, self._processor, settings.registry, settings.limits, settings.sampling, settings.on_event
        )

    def _admit(self) -> None:
        """Gives free slots to the next samples: prefills their prompt once, and forks it."""
        for number in [number for number, (_, task) in self._loading.items() if task.future.done()]:
            query_id, task = self._loading.pop(number)
            if error := task.future.exception():
                if query_id not in self._cancelled:
                    self._finished.append((number, error))
                continue
            prompt = task.future.result()
            if query_id in self._cancelled:
                self._forget(prompt)
            elif self._begin(prompt, 0).room < 1:
                self._give_up(number, prompt)
            else:
                self._groups.append(Group(number, prompt))
        extensions, forks, early = [], [], []
        prompted = set()
        while (part := self._part_with_room()) is not None:
            group, slot = self._beginning[part], self._free[part].pop()
            prompt, episode = group.prompt, self._begin(group.prompt, group.begun)
            if group.home is None:
                group.home = slot
                prompted.add(part)
                rendered, following = prompt.rendered, prompt.next_position
                extensions.append(
                    Extension(
                        slot, 0, episode, rendered.tokens, rendered.media, prompt.positions, following, prompt=True
                    )
                )
            (forks if part in prompted else early).append((group.home, slot, episode))
            self._active[slot] = ActiveSlot(group.number, episode, prompt.next_position)
            group.begun += 1
            if group.begun == self._settings.samples:
                self._beginning[part] = None
        self._runner.fork(early)  # before a prompt of the next group overwrites the one they come from
        self._runner.extend(extensions)
        self._runner.fork(forks)

    def _give_up(self, number: int, prompt: Prompt) -> None:
        """A prompt that leaves no room for a response is all there is."""
        for sample in range(self._settings.samples):
            episode = self._begin(prompt, sample)
            episode.end_if_full()
            self._finished.append((number, episode.trajectory()))

    def _part_with_room(self) -> int | None:
        """The part of the mesh where the next sample begins: of a query that it has begun, else of the next query.

        Slots that are too short for it grow when all are empty; until then it waits.
        """
        free = [part for part, slots in enumerate(self._free) if slots]
        if begun := [part for part in free if self._beginning[part] is not None]:
            return begun[0]
        if not self._groups:
            return None
        shapes, needed = self._runner.shapes, self._begin(self._groups[0].prompt, 0).end
        if shapes is None or needed > shapes.length:
            if self._active:
                return None
            self._grow(needed)
            free = list(range(len(self._free)))
        if not free:
            return None
        part = max(free, key=lambda part: len(self._free[part]))
        self._beginning[part] = self._groups.popleft()
        return part

    def _grow(self, length: int) -> None:
        self._runner.grow(self._settings.slots, length)
        slots = self._runner.shapes.slots
        self._free = [list(range(part * slots, (part + 1) * slots))[::-1] for part in range(self._runner.parts)]

    def _observe(self) -> None:
        """Appends to its slot what every operation that is done has returned."""
        extensions, now = [], time.monotonic()
        for slot, active in list(self._active.items()):
            task = active.task
            if task is None or self._active.get(slot) is not active:
                continue
            if task.future.done():
                observation, media = task.future.result()
            elif task.began is not None and now - task.began > self._settings.operation_seconds:
                self._operators.give_up(task)
                observation = active.episode.failure(
                    active.call, f"the operation took more than {self._settings.operation_seconds:g} seconds"
                )
                media = ()
            else:
                continue
            start = active.episode.length
            rendered = active.episode.observe(active.call, observation)
            active.call = active.task = None
            if self._active.get(slot) is not active:  # cancelled by what was told of it
                continue
            if rendered is None:
                self._finish(slot)
                continue
            positions, following = self._processor.positions(rendered.tokens, rendered.media, active.position)
            active.position = following
            extensions.append(
                Extension(slot, start, active.episode, rendered.tokens, media, positions, following, prompt=False)
            )
        self._runner.extend(extensions)

    def _execute(self, episode: Episode, call: Call | OperationError) -> tuple[Observation, list[Media]]:
        """Runs a call in a worker thread: what came of it, and its images with their pixels at hand."""
        try:
            observation = episode.execute(call)
            media = [
                one if self._runner.holds(one) else dataclasses.replace(one, source=one.pixels)
                for one in observation.rendered.media
            ]
            return observation, media
        except Exception as error:  # an operation's own bug must not end the run of all other episodes
            _log.exception("an operation of query %s failed", episode.prompt.id)
            return episode.failure(call, f"{getattr(call, 'name', 'it')} failed ({type(error).__name__})"), []

    def _decode(self, most: int, patience: int) -> None:
        """Samples a chunk for every slot that can go on; closes the turns that have ended."""
        drawing = {slot: active for slot, active in self._active.items() if active.task is None}
        decoded = self._runner.decode({slot: active.episode for slot, active in drawing.items()}, most, patience)
        for slot, active in drawing.items():
            if self._active.get(slot) is not active:  # cancelled by what was told of another
                continue
            episode, count, before = active.episode, decoded.counts[slot], active.episode.sampled
            columns = (column[slot, :count] for column in (decoded.tokens, decoded.logprobs, decoded.policy_logprobs))
            stopped = episode.add_sampled(*columns) or bool(decoded.stopped[slot])
            active.position += episode.sampled - before
            self._counters.sampled += episode.sampled - before
            if not stopped and episode.turn_room > 0:
                continue
            active.call = episode.end_turn(stopped)
            if self._active.get(slot) is not active:
                continue
            if active.call is None:
                self._finish(slot)
            else:
                active.task = self._operators.submit(self._execute, episode, active.call)

    def _finish(self, slot: int) -> None:
        active = self._active[slot]
        self._release(slot)
        self._finished.append((active.number, active.episode.trajectory()))

    def _release(self, slot: int) -> None:
        active = self._active.pop(slot)
        if active.task is not None:
            self._operators.give_up(active.task)
        self._free[self._runner.part(slot)].append(slot)

    def _forget(self, prompt: Prompt) -> None:
        for picture in prompt.pictures:
            self._store.forget(picture)
