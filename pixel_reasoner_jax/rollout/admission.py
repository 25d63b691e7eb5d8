"""Which responses begin, and where: queries are loaded ahead, and their samples take slots as these become free."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Container, Iterable

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import MediaError, PictureStore, Processor
from pixel_reasoner_jax.query import Query, query_name
from pixel_reasoner_jax.rollout.batches import Extension, Fork
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.groups import ActiveSlot, Finished, Group, RolloutSettings, failed
from pixel_reasoner_jax.rollout.pages import CachePages, ResponsePages
from pixel_reasoner_jax.rollout.pending_images import PendingImages, fetched
from pixel_reasoner_jax.rollout.prompt import Prompt, QueryError
from pixel_reasoner_jax.rollout.runner import ModelRunner
from pixel_reasoner_jax.rollout.workers import Task, Workers


class Admission:
    """The queries of a rollout until all of their samples have begun, and the slots and pages that are free for them.

    Args:
      runner: has the slots, and is given what begins in them.
      settings, store, counters: see `Scheduler`.
      processor: renders queries.
      finished: gets what ends before it has begun.

    Attributes:
      pages: the account of the cache's pages; None before there are slots.
    """

    def __init__(
        self,
        runner: ModelRunner,
        settings: RolloutSettings,
        processor: Processor,
        store: PictureStore,
        counters: Counters,
        finished: collections.deque[Finished],
    ):
        self._runner, self._settings, self._processor = runner, settings, processor
        self._store, self._counters, self._finished = store, counters, finished
        self._loaders = Workers(settings.workers)
        self._loading: dict[int, tuple[str, Task]] = {}
        self._groups: collections.deque[Group] = collections.deque()
        self._beginning: list[Group | None] = [None] * runner.parts
        self._free: list[list[int]] = [[] for _ in range(runner.parts)]
        self.pages: CachePages | None = None

    @property
    def loading(self) -> set[str]:
        """The ids of the queries that worker threads load."""
        return {query_id for query_id, _ in self._loading.values()}

    @property
    def waiting(self) -> int:
        """How many queries have no sample that has begun."""
        return len(self._loading) + len(self._groups)

    @property
    def is_busy(self) -> bool:
        """Whether a sample has not begun."""
        return bool(self.waiting or any(self._beginning))

    @property
    def loaded(self) -> list[tuple[int, Prompt]]:
        """The queries that are loaded and have samples that have not begun: their indices and prompts."""
        return [(group.number, group.prompt) for group in (*self._groups, *filter(None, self._beginning))]

    @property
    def coming(self) -> list[concurrent.futures.Future]:
        """Futures of the tasks of worker threads with whose results a sample could begin at once."""
        if self.pages is not None and not any(self._free):
            return []
        coming = [task.future for _, task in self._loading.values()]
        return coming + [future for group in itertools.islice(self._groups, 1) for future in group.images.coming]

    def load(self, take: Callable[[int], Iterable[tuple[int, Query]]]) -> None:
        """Has worker threads load and render the next queries: as many as fill all slots, and one more a thread.

        Args:
          take: gives the next queries with their indices, at most so many.
        """
        wanted = self._settings.workers + -(-self._settings.slots * self._runner.parts // self._settings.samples)
        for number, query in take(max(0, wanted - self.waiting)):
            self._loading[number] = str(query["id"]), self._loaders.submit(self._build, query)

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

    def admit(self, cancelled: Container[str]) -> dict[int, ActiveSlot]:
        """Gives free slots to the next samples: prefills each prompt once, and forks it to the samples' slots.

        Args:
          cancelled: ids of queries that do not begin.

        Returns:
          The slots that were given, in this order.
        """
        self._take_loaded(cancelled)
        begun: dict[int, ActiveSlot] = {}
        extensions, forks, early = [], [], []
        prefilled_parts = set()
        while (part := self._part_with_room()) is not None:
            group, slot = self._beginning[part], self._free[part].pop()
            prompt, episode = group.prompt, self._new_episode(group.prompt, group.begun)
            if group.pages is None:
                rendered, following = prompt.rendered, prompt.next_position
                group.prompt_slot, group.pages = slot, self.pages.begin(part, len(rendered.tokens))
                prefilled_parts.add(part)
                row = self.pages.row(group.pages)
                extensions.append(
                    Extension(
                        slot, 0, episode, rendered.tokens, group.images.media, prompt.positions, following, row, True
                    )
                )
            group.begun += 1
            is_last, page = group.begun == group.samples, group.pages.last
            pages, copy = self.pages.fork(group.pages, is_last)
            settings = self._settings.of(prompt.query)
            name = prompt.id if settings.drawn_as is None else settings.drawn_as
            fork = Fork(group.prompt_slot, slot, episode, settings.seed, name, page, copy)
            (forks if part in prefilled_parts else early).append(fork)
            begun[slot] = ActiveSlot(group.number, episode, prompt.next_position, pages)
            if is_last:
                self._beginning[part] = None
        self._runner.fork(early)  # before the next group's prompt can overwrite the prompt that these are forked from
        self._runner.extend(extensions)
        self._runner.fork(forks)
        return begun

    def _take_loaded(self, cancelled: Container[str]) -> None:
        """Puts the queries that are loaded behind those that wait; some fail, or end without a response."""
        for number in [number for number, (_, task) in self._loading.items() if task.future.done()]:
            query_id, task = self._loading.pop(number)
            if (error := task.future.exception()) is not None:
                if isinstance(error, UserError):
                    error = QueryError(number, query_id, str(error))
                self._finished.append((number, query_id, error))
                continue
            prompt = task.future.result()
            if query_id in cancelled:
                self.forget(prompt)
            elif self._new_episode(prompt, 0).room < 1:
                self._finish_without_response(number, prompt)
            else:
                samples = self._settings.of(prompt.query).samples
                self._groups.append(Group(number, prompt, PendingImages(prompt.rendered.media), samples))

    def _finish_without_response(self, number: int, prompt: Prompt) -> None:
        """Ends the samples of a prompt that leaves no room for a response: their trajectories are the prompt alone."""
        for sample in range(self._settings.of(prompt.query).samples):
            episode = self._new_episode(prompt, sample)
            episode.end_if_full()
            self._finished.append((number, prompt.id, episode.trajectory()))

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

    def _part_with_room(self) -> int | None:
        """The part of the mesh where the next sample begins; None if none can begin now.

        A query whose first samples have begun goes first, then the next query. If the slots are too short for the next
        query, it waits until all of them are empty, and longer ones are made. None begins where the pages are too few.
        """
        free = [part for part, slots in enumerate(self._free) if slots]
        begun = [part for part in free if self._beginning[part] is not None]
        if with_room := [part for part in begun if self.pages.has_room(part)]:
            return with_room[0]
        if not self._groups:
            return None
        group = self._groups[0]
        prompt, shapes, needed = group.prompt, self._runner.shapes, self._new_episode(group.prompt, 0).end
        if shapes is None or needed > shapes.length:
            if shapes is not None and any(len(slots) < shapes.slots for slots in self._free):
                return None
            self.grow(needed)
            free = list(range(len(self._free)))
        tokens = len(prompt.rendered.tokens)
        free = [part for part in free if self._beginning[part] is None and self.pages.has_room(part, tokens)]
        if not free:
            return None
        part = max(free, key=lambda part: len(self._free[part]))
        try:
            if not group.images.are_ready(self._runner.held(part), self._loaders):
                return None
        except MediaError as error:  # an image is gone
            self._groups.popleft()
            self.forget(prompt)
            self._finished.append(failed(group.number, prompt, error))
            return self._part_with_room()
        self._beginning[part] = self._groups.popleft()
        return part

    def grow(self, length: int) -> None:
        """Replaces all slots, which are empty, by slots of at least so many tokens."""
        self._runner.grow(self._settings.slots, length, self._settings.cache_tokens)
        slots = self._runner.shapes.slots
        self._free = [list(range(part * slots, (part + 1) * slots))[::-1] for part in range(self._runner.parts)]
        self.pages = CachePages(self._runner.shapes, self._runner.parts, self._runner, self._counters)

    def release(self, slot: int, pages: ResponsePages) -> None:
        """Takes back the slot and the pages of a response that has ended."""
        self.pages.release(pages)
        self._free[self._runner.part(slot)].append(slot)

    def drop(self, numbers: Container[int]) -> None:
        """Begins no more samples of some of the queries that are `loaded`, given by their indices."""
        self._groups = collections.deque(group for group in self._groups if group.number not in numbers)
        for part, group in enumerate(self._beginning):
            if group and group.number in numbers:
                if group.pages is not None:
                    self.pages.release_prompt(group.pages)
                self._beginning[part] = None

    def forget(self, prompt: Prompt) -> None:
        """Gives back the memory of a query's pixels."""
        for picture in prompt.pictures:
            self._store.forget(picture)

    def close(self) -> None:
        """Drops all queries."""
        self._loaders.close()
        self._loading.clear()
        self._groups.clear()
        self._beginning = [None] * self._runner.parts
