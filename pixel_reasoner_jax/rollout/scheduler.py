"""The host loop of a rollout: continuous batching of responses over slots.

A query's prompt is prefilled once and forked to its samples. A sample takes a free slot and frees it when it has ended,
for the next sample. Between two chunks of decoding, the results of the worker threads (loaded queries, executed
operations) are appended to their slots. A slot whose operation is still running is left out of decoding, so that the
other slots do not wait for it, and so is one whose response waits for pages of the cache (see `pages`).

Several processes run this loop in step, each with other queries: they make the same engine calls in the same order, and
a process whose queries are done takes part until all processes are done.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call, OperationError
from pixel_reasoner_jax.processing import Media, MediaError, PictureStore
from pixel_reasoner_jax.query import Query, query_name
from pixel_reasoner_jax.rollout.batches import Extension, Fork
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.episode import Episode, RenderedObservation
from pixel_reasoner_jax.rollout.groups import ActiveSlot, Group, RolloutSettings
from pixel_reasoner_jax.rollout.pages import CachePages
from pixel_reasoner_jax.rollout.pending_images import PendingImages, fetched
from pixel_reasoner_jax.rollout.prompt import Prompt, QueryError
from pixel_reasoner_jax.rollout.runner import DecodingSlot, ModelRunner
from pixel_reasoner_jax.rollout.runtime import Runtime
from pixel_reasoner_jax.rollout.workers import Task, Workers
from pixel_reasoner_jax.trajectory import Trajectory

WAITING_CHUNK_DIVISOR = 8  # a chunk of decoding has so many times fewer steps while a slot waits for a worker thread
PATIENCE = 16  # a chunk of decoding ends early when 1/PATIENCE of its slots have ended their turn
GRACE_SECONDS = 0.005  # how long to wait for further results of worker threads, so that one call appends them together
POLL_SECONDS = 0.1  # how often to look for operations that take too long, when there is nothing to decode

_log = logging.getLogger(__name__)


class RolloutStopped(Exception):
    """`RolloutSettings.stop` of this process or of another one has ended the rollout."""


class Scheduler(Iterator[tuple[int, Trajectory]]):
    """Iterates over pairs (index of the query, trajectory) in the order in which they end; made by `Policy.stream`.

    Use it as a context manager, or `close` it, if it is not read to its end: the slots' memory is then free at once,
    and not only when it is collected. If several processes share the mesh, each of them must read to the end, or the
    others would wait for ever. Settings and parameters are those that the policy had when the rollout began.

    Raises:
      QueryError: by `next`, in its turn, for a query whose media cannot be used. Iteration goes on with the others.
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
        self._runner = ModelRunner(runtime, settings.sampling, settings.decode_steps, counters)
        self._free: list[list[int]] = [[] for _ in range(self._runner.parts)]
        self._pages: CachePages | None = None
        self._beginning: list[Group | None] = [None] * self._runner.parts
        # Two pools, so that no operation waits for a query to load.
        self._loaders, self._operators = Workers(settings.workers), Workers(settings.workers)
        self._loading: dict[int, tuple[str, Task]] = {}
        self._groups: collections.deque[Group] = collections.deque()
        self._active: dict[int, ActiveSlot] = {}  # in the order in which they began
        # Each with the index and the id of its query.
        self._finished: collections.deque[tuple[int, str, Trajectory | BaseException]] = collections.deque()
        self._cancelled: set[str] = set()
        self._over = False  # True once no process has anything left to do, which all of them know

    def __next__(self) -> tuple[int, Trajectory]:
        while True:
            self._run_until_one_has_finished()
            if not self._finished:
                self.close()
                raise StopIteration
            number, query_id, result = self._finished.popleft()
            if query_id in self._cancelled:
                continue
            if isinstance(result, BaseException):
                raise result
            return number, result

    def _run_until_one_has_finished(self) -> None:
        began = time.perf_counter()
        self._runner.check()
        try:
            while not (self._finished or self._over):
                self._over = not self._step()
        except BaseException:
            self.close()
            self._runtime.forget_table()  # its buffer may have been donated to a call whose result was not assigned
            raise
        finally:
            self._counters.seconds += time.perf_counter() - began

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def cancel(self, query_id: str) -> None:
        """Drops a query, whatever state it is in: its slots are freed, and nothing of it is yielded or raised."""
        query_id = str(query_id)
        self._cancelled.add(query_id)
        self._drop(lambda number, prompt: prompt.id == query_id)

    def _drop(self, is_meant: Callable[[int, Prompt], bool]) -> None:
        """Frees what some queries hold, given by their index and prompt: slots, pixels, places in the queues."""
        groups = [*self._groups, *filter(None, self._beginning)]
        held = [(group.number, group.prompt) for group in groups]
        held += [(active.number, active.episode.prompt) for active in self._active.values()]
        numbers = {number for number, prompt in held if is_meant(number, prompt)}
        for number, prompt in held:
            if number in numbers:
                self._forget(prompt)
        self._groups = collections.deque(group for group in self._groups if group.number not in numbers)
        for part, group in enumerate(self._beginning):
            if group and group.number in numbers:
                if group.pages is not None:
                    self._pages.release_prompt(group.pages)
                self._beginning[part] = None
        for slot in [slot for slot, active in self._active.items() if active.number in numbers]:
            self._release(slot)

    def _fail(self, number: int, query_id: str, error: UserError) -> None:
        """Drops a query alone and has `error` raised in its turn; what has finished of it is yielded before."""
        self._drop(lambda other, _: other == number)
        self._finished.append((number, query_id, QueryError(number, query_id, str(error))))

    def _are_ready(self, images: PendingImages, part: int, workers: Workers, number: int, prompt: Prompt) -> bool:
        """Whether tokens with these images can be appended in a part; where an image is gone, its query fails."""
        try:
            return images.are_ready(self._runner.held(part), workers)
        except MediaError as error:
            self._fail(number, prompt.id, MediaError(f"{query_name(prompt.query)}: {error}"))
            return False

    def close(self) -> None:
        """Drops all queries that have not ended, and releases the slots' memory."""
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
        """Admits, observes and decodes one chunk, together with all processes.

        Returns:
          False if no process has anything left to do.
        """
        if self._runner.shapes is None and self._runner.shared:
            # The same on all processes; `Policy.stream` has made sure that it is set.
            self._grow(self._settings.limits.max_length)
        self._load()
        if self._pages is not None:
            self._pages.resume()
        self._admit()
        self._observe()
        ready = self._reserve()
        coming = self._awaited()
        busy = bool(self._active or self._groups or self._loading or any(self._beginning))
        drawing = len(ready)
        working = self._runner.working()
        stop = self._settings.stop is not None and self._settings.stop()
        statuses = self._runner.flush(busy, drawing, bool(coming), working, stop)
        busy, drawing, someone_waits, working, stop = statuses.sum(axis=0).tolist()
        if stop:
            raise RolloutStopped
        if not drawing:
            self._wait(coming)
        elif someone_waits and working:
            # The device is still busy, so a chunk could not start: results that arrive meanwhile can be part of it.
            began = time.perf_counter()
            concurrent.futures.wait(coming, GRACE_SECONDS, concurrent.futures.FIRST_COMPLETED)
            self._counters.device_seconds += time.perf_counter() - began
        else:
            steps = self._settings.decode_steps // (WAITING_CHUNK_DIVISOR if someone_waits else 1)
            self._decode(ready, max(1, steps), max(1, drawing // PATIENCE))
        return busy > 0

    def _awaited(self) -> list[concurrent.futures.Future]:
        """Futures of the tasks of worker threads whose results could be appended to a slot at once."""
        going_on = [one for one in self._active.values() if not one.pages.waits]
        coming = [one.task.future for one in going_on if one.task is not None]
        coming += [future for one in going_on if one.observed is not None for future in one.observed[2].coming]
        if any(self._free) or not self._active:
            coming += [task.future for _, task in self._loading.values()]
            coming += [future for group in itertools.islice(self._groups, 1) for future in group.images.coming]
        return coming

    def _wait(self, coming: list[concurrent.futures.Future]) -> None:
        """Waits for a worker thread's result, at most `POLL_SECONDS`, when there is nothing to decode."""
        began = time.perf_counter()
        if self._runner.shared:
            time.sleep(GRACE_SECONDS)  # no longer: another process may have something to decode by then
        elif concurrent.futures.wait(coming, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED).done:
            concurrent.futures.wait(coming, GRACE_SECONDS)
        self._counters.idle_seconds += time.perf_counter() - began

    def _load(self) -> None:
        """Has worker threads load and render the next queries: as many as fill all slots, and one more a thread."""
        wanted = self._settings.workers + -(-self._settings.slots * self._runner.parts // self._settings.samples)
        ahead = wanted - len(self._loading) - len(self._groups)
        for number, query in self._take(max(0, ahead)):
            self._loading[number] = str(query["id"]), self._loaders.submit(self._build, query)

    def _take(self, count: int) -> Iterable[tuple[int, Query]]:
        """The next queries with their indices, at most `count`."""
        return itertools.islice(self._queries, count)

    def _build(self, query: Query) -> Prompt:
        """Opens and renders a query in a worker thread, and prepares the pixels of images that must be encoded.

        Raises:
          UserError: that cannot be done; the message names the query. A `MediaError` stays one.
        """
        settings = self._settings.of(query)
        try:
            if settings.build is None:
                prompt = Prompt.build(query, self._processor, settings.registry, settings.guidelines, self._store)
            else:
                prompt = settings.build(query)
            if not all(map(self._runner.holds, prompt.rendered.media)):
                fetched(prompt.rendered.media)  # the store keeps the pixels until they are encoded, if it has room
        except UserError as error:
            kind = MediaError if isinstance(error, MediaError) else UserError
            raise kind(f"{query_name(query)}: {error}") from error
        return prompt

    def _new_episode(self, prompt: Prompt, sample: int) -> Episode:
        settings = self._settings.of(prompt.query)
        return Episode(
            prompt,
            settings.first_sample + sample,
            self._processor,
            settings.registry,
            settings.limits,
            settings.sampling,
            settings.on_event,
            settings.policy_version,
            settings.follow_up,
        )

    def _admit(self) -> None:
        """Gives free slots to the next samples: prefills each prompt once, and forks it to the samples' slots."""
        for number in [number for number, (_, task) in self._loading.items() if task.future.done()]:
            query_id, task = self._loading.pop(number)
            error = task.future.exception()
            if isinstance(error, UserError):
                self._fail(number, query_id, error)
                continue
            if error is not None:
                self._finished.append((number, query_id, error))
                continue
            prompt = task.future.result()
            if query_id in self._cancelled:
                self._forget(prompt)
            elif self._new_episode(prompt, 0).room < 1:
                self._finish_without_response(number, prompt)
            else:
                samples = self._settings.of(prompt.query).samples
                self._groups.append(Group(number, prompt, PendingImages(prompt.rendered.media), samples))
        extensions, forks, early = [], [], []
        prefilled_parts = set()
        while (part := self._part_with_room()) is not None:
            group, slot = self._beginning[part], self._free[part].pop()
            prompt, episode = group.prompt, self._new_episode(group.prompt, group.begun)
            if group.pages is None:
                rendered, following = prompt.rendered, prompt.next_position
                group.prompt_slot, group.pages = slot, self._pages.begin(part, len(rendered.tokens))
                prefilled_parts.add(part)
                row = self._pages.row(group.pages)
                extensions.append(
                    Extension(
                        slot, 0, episode, rendered.tokens, group.images.media, prompt.positions, following, row, True
                    )
                )
            group.begun += 1
            is_last, page = group.begun == group.samples, group.pages.last
            pages, copy = self._pages.fork(group.pages, is_last)
            settings = self._settings.of(prompt.query)
            name = prompt.id if settings.drawn_as is None else settings.drawn_as
            fork = Fork(group.prompt_slot, slot, episode, settings.seed, name, page, copy)
            (forks if part in prefilled_parts else early).append(fork)
            self._active[slot] = ActiveSlot(group.number, episode, prompt.next_position, pages)
            if is_last:
                self._beginning[part] = None
        self._runner.fork(early)  # before the next group's prompt can overwrite the prompt that these are forked from
        self._runner.extend(extensions)
        self._runner.fork(forks)

    def _finish_without_response(self, number: int, prompt: Prompt) -> None:
        """Ends the samples of a prompt that leaves no room for a response: their trajectories are the prompt alone."""
        for sample in range(self._settings.of(prompt.query).samples):
            episode = self._new_episode(prompt, sample)
            episode.end_if_full()
            self._finished.append((number, prompt.id, episode.trajectory()))

    def _part_with_room(self) -> int | None:
        """The part of the mesh where the next sample begins; None if none can begin now.

        A query whose first samples have begun goes first, then the next query. If the slots are too short for the next
        query, it waits until all of them are empty, and longer ones are made. None begins where the pages are too few.
        """
        free = [part for part, slots in enumerate(self._free) if slots]
        begun = [part for part in free if self._beginning[part] is not None]
        if with_room := [part for part in begun if self._pages.has_room(part)]:
            return with_room[0]
        if not self._groups:
            return None
        prompt = self._groups[0].prompt
        shapes, needed = self._runner.shapes, self._new_episode(prompt, 0).end
        if shapes is None or needed > shapes.length:
            if self._active:
                return None
            self._grow(needed)
            free = list(range(len(self._free)))
        tokens = len(prompt.rendered.tokens)
        free = [part for part in free if self._beginning[part] is None and self._pages.has_room(part, tokens)]
        if not free:
            return None
        part, group = max(free, key=lambda part: len(self._free[part])), self._groups[0]
        if not self._are_ready(group.images, part, self._loaders, group.number, prompt):
            # Where an image was gone, the next query is looked at.
            return None if self._groups and self._groups[0] is group else self._part_with_room()
        self._beginning[part] = self._groups.popleft()
        return part

    def _grow(self, length: int) -> None:
        self._runner.grow(self._settings.slots, length, self._settings.cache_tokens)
        slots = self._runner.shapes.slots
        self._free = [list(range(part * slots, (part + 1) * slots))[::-1] for part in range(self._runner.parts)]
        self._pages = CachePages(self._runner.shapes, self._runner.parts, self._runner, self._counters)

    def _observe(self) -> None:
        """Appends the observation of every operation that is done, or has taken too long, to its slot."""
        now = time.monotonic()
        for slot, active in list(self._active.items()):
            task = active.task
            if task is None or active.pages.waits or self._active.get(slot) is not active:
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
            goes_on = active.episode.observe(active.call, observation)
            active.call = active.task = None
            if self._active.get(slot) is not active:  # `on_event` has cancelled its query
                continue
            if not goes_on:
                self._finish(slot)
                continue
            active.observed = start, observation.rendered, PendingImages(media)
        # A query may fail in this, with all of its slots: before an extension is made for one of them.
        ready = [slot for slot in list(self._active) if self._has_observation(slot)]
        extensions = [self._extension(slot) for slot in ready if slot in self._active]
        self._runner.extend([extension for extension in extensions if extension is not None])

    def _has_observation(self, slot: int) -> bool:
        """Whether an observation is to be appended to a slot, and its pixels are here."""
        active = self._active.get(slot)
        if active is None or active.observed is None or active.pages.waits:
            return False
        images, prompt = active.observed[2], active.episode.prompt
        return self._are_ready(images, self._runner.part(slot), self._operators, active.number, prompt)

    def _extension(self, slot: int) -> Extension | None:
        """The observation that is to be appended to a slot; None if there is no page for it."""
        active = self._active[slot]
        if active.pages.waits:
            return None
        start, rendered, images = active.observed
        if not self._pages.reserve(active.pages, active.episode.length):
            return None
        active.observed = None
        positions, active.position = self._processor.positions(rendered.tokens, rendered.media, active.position)
        row = self._pages.row(active.pages)
        return Extension(
            slot, start, active.episode, rendered.tokens, images.media, positions, active.position, row, prompt=False
        )

    def _reserve(self) -> dict[int, ActiveSlot]:
        """Gives the responses that can be sampled pages for the tokens of a chunk; those that got them, by slot."""
        steps, ready = self._settings.decode_steps, {}
        for slot, active in self._active.items():
            if active.task is None and active.observed is None and not active.pages.waits:
                tokens = active.episode.length + min(steps, active.episode.turn_room)
                if self._pages.reserve(active.pages, tokens):
                    ready[slot] = active
        return ready

    def _execute(self, episode: Episode, call: Call | OperationError) -> tuple[RenderedObservation, list[Media]]:
        """Runs a call in a worker thread.

        Returns:
          The observation, and its images; with their pixels unless none must be encoded.
        """
        try:
            observation = episode.execute(call)
            media = observation.rendered.media
            return observation, media if all(map(self._runner.holds, media)) else fetched(media)
        except Exception as error:  # an operation's own bug must not end the run of all other episodes
            _log.exception("an operation of query %s failed", episode.prompt.id)
            return episode.failure(call, f"{getattr(call, 'name', 'it')} failed ({type(error).__name__})"), []

    def _decode(self, drawing: dict[int, ActiveSlot], most: int, patience: int) -> None:
        """Samples a chunk for slots, and ends the turns that are complete."""
        decoding = {slot: DecodingSlot(active.episode, active.pages) for slot, active in drawing.items()}
        decoded = self._runner.decode(decoding, most, patience)
        for slot, active in drawing.items():
            if self._active.get(slot) is not active:  # `on_event` has cancelled its query, called for another slot
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
        self._finished.append((active.number, active.episode.prompt.id, active.episode.trajectory()))

    def _release(self, slot: int) -> None:
        active = self._active.pop(slot)
        if active.task is not None:
            self._operators.give_up(active.task)
        self._pages.release(active.pages)
        self._free[self._runner.part(slot)].append(slot)

    def _forget(self, prompt: Prompt) -> None:
        for picture in prompt.pictures:
            self._store.forget(picture)
