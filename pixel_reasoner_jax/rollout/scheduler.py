"""The host loop of a rollout: continuous batching of responses over slots.

A query's prompt is prefilled once and forked to its samples. A sample takes a free slot and frees it when it has ended,
for the next sample. Between two chunks of decoding, the results of the worker threads (loaded queries, executed
operations) are appended to their slots. A slot whose operation is still running is left out of decoding, so that the
other slots do not wait for it, and so is one whose response waits for pages of the cache (see `pages`). Which responses
begin, and in which slots, says `admission`.

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

from pixel_reasoner_jax.operations import Call, OperationError
from pixel_reasoner_jax.processing import Media, MediaError, PictureStore
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rollout.admission import Admission
from pixel_reasoner_jax.rollout.batches import Extension
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.episode import Episode, RenderedObservation
from pixel_reasoner_jax.rollout.groups import ActiveSlot, Finished, RolloutSettings, failed
from pixel_reasoner_jax.rollout.pending_images import PendingImages, fetched
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.rollout.runner import DecodingSlot, ModelRunner
from pixel_reasoner_jax.rollout.runtime import Runtime
from pixel_reasoner_jax.rollout.workers import Workers
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
        self._counters = counters
        self._queries = enumerate(queries)
        self._runner = ModelRunner(runtime, settings.sampling, settings.decode_steps, counters)
        self._finished: collections.deque[Finished] = collections.deque()
        self._admission = Admission(self._runner, settings, self._processor, store, counters, self._finished)
        self._operators = Workers(settings.workers)  # others than load queries, so that no operation waits for these
        self._active: dict[int, ActiveSlot] = {}  # in the order in which they began
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
        held = self._admission.loaded
        held += [(active.number, active.episode.prompt) for active in self._active.values()]
        numbers = {number for number, prompt in held if is_meant(number, prompt)}
        for number, prompt in held:
            if number in numbers:
                self._admission.forget(prompt)
        self._admission.drop(numbers)
        for slot in [slot for slot, active in self._active.items() if active.number in numbers]:
            self._release(slot)

    def close(self) -> None:
        """Drops all queries that have not ended, and releases the slots' memory."""
        self._queries = iter(())
        self._admission.close()
        self._operators.close()
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
            self._admission.grow(self._settings.limits.max_length)
        self._admission.load(self._take)
        if self._admission.pages is not None:
            self._admission.pages.resume()
        self._active |= self._admission.admit(self._cancelled)
        self._observe()
        ready = self._reserve()
        coming = self._awaited()
        drawing = len(ready)
        working = self._runner.working()
        stop = self._settings.stop is not None and self._settings.stop()
        statuses = self._runner.flush(self._is_busy, drawing, bool(coming), working, stop)
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

    @property
    def _is_busy(self) -> bool:
        """Whether a query of this process has not ended."""
        return bool(self._active) or self._admission.is_busy

    def _awaited(self) -> list[concurrent.futures.Future]:
        """Futures of the tasks of worker threads whose results could be appended to a slot at once."""
        going_on = [one for one in self._active.values() if not one.pages.waits]
        coming = [one.task.future for one in going_on if one.task is not None]
        coming += [future for one in going_on if one.observed is not None for future in one.observed[2].coming]
        return coming + self._admission.coming

    def _wait(self, coming: list[concurrent.futures.Future]) -> None:
        """Waits for a worker thread's result, at most `POLL_SECONDS`, when there is nothing to decode."""
        began = time.perf_counter()
        if self._runner.shared:
            time.sleep(GRACE_SECONDS)  # no longer: another process may have something to decode by then
        elif concurrent.futures.wait(coming, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED).done:
            concurrent.futures.wait(coming, GRACE_SECONDS)
        self._counters.idle_seconds += time.perf_counter() - began

    def _take(self, count: int) -> Iterable[tuple[int, Query]]:
        """The next queries with their indices, at most `count`."""
        return itertools.islice(self._queries, count)

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
        try:
            return active.observed[2].are_ready(self._runner.held(self._runner.part(slot)), self._operators)
        except MediaError as error:  # an image is gone: its query ends, and what has finished of it is yielded before
            number, prompt = active.number, active.episode.prompt
            self._drop(lambda other, _: other == number)
            self._finished.append(failed(number, prompt, error))
            return False

    def _extension(self, slot: int) -> Extension | None:
        """The observation that is to be appended to a slot; None if there is no page for it."""
        active = self._active[slot]
        if active.pages.waits:
            return None
        start, rendered, images = active.observed
        if not self._admission.pages.reserve(active.pages, active.episode.length):
            return None
        active.observed = None
        positions, active.position = self._processor.positions(rendered.tokens, rendered.media, active.position)
        row = self._admission.pages.row(active.pages)
        return Extension(
            slot, start, active.episode, rendered.tokens, images.media, positions, active.position, row, prompt=False
        )

    def _reserve(self) -> dict[int, ActiveSlot]:
        """Gives the responses that can be sampled pages for the tokens of a chunk; those that got them, by slot."""
        steps, ready = self._settings.decode_steps, {}
        for slot, active in self._active.items():
            if active.task is None and active.observed is None and not active.pages.waits:
                tokens = active.episode.length + min(steps, active.episode.turn_room)
                if self._admission.pages.reserve(active.pages, tokens):
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
        self._admission.release(slot, active.pages)
