"""The host loop of a rollout: continuous batching of responses over the engine's slots.

A query's prompt is prefilled once and forked to its samples. A sample takes a free slot, leaves it when it is over, and
the next one takes it. Between two chunks of decoding, what the worker threads have ready (loaded queries, executed
operations) is appended to its slots; slots whose operation is still running are left out and hold up nobody.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from pixel_reasoner_jax.operations import Call, OperationError
from pixel_reasoner_jax.processing import Media, Rendered, media_patches, vision_layout
from pixel_reasoner_jax.rollout.embeddings import EmbeddingTable
from pixel_reasoner_jax.rollout.engine import Addition, Forks, Slots
from pixel_reasoner_jax.rollout.episode import Episode, Event, Observation, Prompt
from pixel_reasoner_jax.rollout.prompt import Query
from pixel_reasoner_jax.rollout.sampling import Drawing, SamplingSettings, sample_keys
from pixel_reasoner_jax.rollout.shapes import CHUNK, Shapes, row_patches
from pixel_reasoner_jax.trajectory import Trajectory

if TYPE_CHECKING:
    from pixel_reasoner_jax.rollout.policy import Policy

PATIENCE = 16  # a chunk of decoding ends early when one in so many of its slots has ended its turn
GRACE = 0.005  # seconds that finished operations wait for others when there is nothing to decode

Layout = tuple[dict[str, np.ndarray], np.ndarray]
"""An image as `vision_layout` places it in a row of its own."""


@dataclasses.dataclass
class Counters:
    """What rollouts have done; sums.

    Attributes:
      sampled: tokens drawn and kept.
      prefilled: tokens of prompts and observations put through the model; `prefill_padding` is what went with them.
      decode_steps, decode_calls: tokens drawn one after the other, and calls of the device for them.
      extend_calls: calls of the device to append tokens.
      encoded: images encoded; `encode_hits` were in the table already.
      seconds: of the loop; `device_seconds` of them within calls of the device, waiting for it included, and
        `idle_seconds` waiting for worker threads with nothing to decode.
    """

    sampled: int = 0
    prefilled: int = 0
    prefill_padding: int = 0
    decode_steps: int = 0
    decode_calls: int = 0
    extend_calls: int = 0
    encoded: int = 0
    encode_hits: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    idle_seconds: float = 0.0


@dataclasses.dataclass
class Group:
    """The samples of one query.

    Attributes:
      number: of the query, in the order they were given.
      layouts: of the prompt's images.
      begun: samples that have been given a slot.
      home: a slot that holds the prompt: until all samples have begun, free slots are given to no other query.
    """

    number: int
    prompt: Prompt
    layouts: dict[Any, Layout]
    begun: int = 0
    home: int | None = None


@dataclasses.dataclass
class Row:
    """A slot in use.

    Attributes:
      number: of its query, in the order they were given.
      position: M-RoPE position of the next text token.
      call, future, since: the operation that it waits for, and since when.
    """

    number: int
    episode: Episode
    position: int
    call: Call | OperationError | None = None
    future: concurrent.futures.Future | None = None
    since: float = 0.0


@dataclasses.dataclass
class Piece:
    """Tokens to append to a slot that holds `start` of them.

    `positions` is int32 [3, tokens], `following` the position after; `layouts` are those of its images.
    """

    slot: int
    start: int
    rendered: Rendered
    positions: np.ndarray
    following: int
    episode: Episode
    layouts: dict[Any, Layout]


class Scheduler(Iterator[tuple[int, Trajectory]]):
    """Pairs (number of the query, trajectory) of a rollout, as they finish; see `Policy.stream`, which makes it.

    Use it as a context manager, or `close` it, where it is not read to its end.
    """

    def __init__(
        self,
        policy: Policy,
        queries: Iterable[Query],
        samples: int,
        seed: int,
        sampling: SamplingSettings,
        on_event: Callable[[Event], None] | None,
        slots: int,
    ):
        self._policy, self._params, self._counters = policy, policy.params, policy.counters
        self._processor, self._version = policy.processor, policy.version
        self._queries = enumerate(queries)
        self._samples, self._seed, self._sampling, self._on_event = samples, seed, sampling, on_event
        self._engine = policy.engine(sampling)
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))
        self._shapes: Shapes | None = None  # until the first query tells how long the slots must be
        self._table: EmbeddingTable | None = None
        self._device: Slots | None = None
        # Apart from each other, so that no operation waits for a query to load.
        self._loaders, self._operators = (ThreadPoolExecutor(policy.workers) for _ in range(2))
        self._loading: list[tuple[int, concurrent.futures.Future]] = []
        self._groups: collections.deque[Group] = collections.deque()
        self._rows: dict[int, Row] = {}
        self._finished: collections.deque[tuple[int, Trajectory]] = collections.deque()
        self._cancelled: set[str] = set()

    def __next__(self) -> tuple[int, Trajectory]:
        began = time.perf_counter()
        try:
            while not self._finished and self._step():
                pass
        except BaseException:
            self.close()
            raise
        finally:
            self._counters.seconds += time.perf_counter() - began
        if not self._finished:
            self.close()
            raise StopIteration
        return self._finished.popleft()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def cancel(self, query_id: str) -> None:
        """Drops a query wherever it is: its slots are free at once, and none of its trajectories comes any more."""
        self._cancelled.add(query_id)
        prompts = [group.prompt for group in self._groups] + [row.episode.prompt for row in self._rows.values()]
        for picture in {picture for prompt in prompts if prompt.id == query_id for picture in prompt.pictures}:
            self._policy.store.forget(picture)
        self._groups = collections.deque(group for group in self._groups if group.prompt.id != query_id)
        for slot in [slot for slot, row in self._rows.items() if row.episode.prompt.id == query_id]:
            self._release(slot)
        self._finished = collections.deque(one for one in self._finished if one[1].query_id != query_id)

    def close(self) -> None:
        """Drops all that is under way, and the cache."""
        self._queries = iter(())
        for pool in (self._loaders, self._operators):
            pool.shutdown(wait=False, cancel_futures=True)
        self._loading.clear()
        self._groups.clear()
        self._finished.clear()
        for slot in list(self._rows):
            self._release(slot)
        self._device = None

    def _step(self) -> bool:
        """Goes on a little; False when nothing is left to do."""
        self._load()
        self._admit()
        self._observe()
        if any(row.future is None for row in self._rows.values()):
            self._decode()
            return True
        return self._wait()

    def _wait(self) -> bool:
        """Nothing can be decoded: waits for a worker thread; False when none is at work."""
        futures = [future for _, future in self._loading] + [row.future for row in self._rows.values()]
        if not futures:
            return bool(self._groups)
        began = time.perf_counter()
        concurrent.futures.wait(futures, self._policy.operation_seconds, concurrent.futures.FIRST_COMPLETED)
        concurrent.futures.wait(futures, GRACE)
        self._counters.idle_seconds += time.perf_counter() - began
        return True

    def _load(self) -> None:
        """Has worker threads load and render the next queries: as many as the slots take, and one for each thread."""
        ahead = self._policy.workers + -(-self._slots // self._samples)
        for number, query in itertools.islice(self._queries, max(0, ahead - len(self._loading) - len(self._groups))):
            self._loading.append((number, self._loaders.submit(self._build, query)))

    def _build(self, query: Query) -> tuple[Prompt, dict[Any, Layout]]:
        policy = self._policy
        prompt = Prompt.build(query, policy.processor, policy.registry, policy.guidelines, policy.store)
        return prompt, self._layouts(prompt.rendered)

    def _begin(self, prompt: Prompt, sample: int) -> Episode:
        policy = self._policy
        return Episode(prompt, sample, policy.processor, policy.registry, policy.limits, self._sampling, self._on_event)

    def _admit(self) -> None:
        """Gives free slots to the next samples: prefills their prompt once, and forks it."""
        for number, future in [pair for pair in self._loading if pair[1].done()]:
            self._loading.remove((number, future))
            prompt, layouts = future.result()
            if prompt.id in self._cancelled:
                continue
            if self._begin(prompt, 0).room < 1:
                self._give_up(number, prompt)
            else:
                self._groups.append(Group(number, prompt, layouts))
        pieces, forks, early = [], [], []
        while self._free and self._groups and self._make_room(self._groups[0].prompt):
            group, slot = self._groups[0], self._free.pop()
            prompt, episode = group.prompt, self._begin(group.prompt, group.begun)
            if group.home is None:
                group.home = slot
                where = prompt.positions, prompt.next_position
                pieces.append(Piece(slot, 0, prompt.rendered, *where, episode, group.layouts))
            (forks if pieces else early).append((group.home, slot, episode))
            self._rows[slot] = Row(group.number, episode, prompt.next_position)
            group.begun += 1
            if group.begun == self._samples:
                self._groups.popleft()
        self._fork(early)  # before a prompt of the next group overwrites the one they come from
        self._extend(pieces)
        self._fork(forks)

    def _give_up(self, number: int, prompt: Prompt) -> None:
        """A prompt that leaves no room for a response is all there is."""
        for sample in range(self._samples):
            episode = self._begin(prompt, sample)
            episode.end_if_full()
            self._finished.append((number, episode.trajectory()))

    def _make_room(self, prompt: Prompt) -> bool:
        """Whether the slots are long enough for a query. They grow when they are empty; until then it waits."""
        needed = self._begin(prompt, 0).end
        if self._shapes is None or needed > self._shapes.length:
            if self._rows:
                return False
            self._device = None  # before the new cache is made, or both would be in memory
            self._shapes = self._policy.declare(self._slots, needed)
            self._table = self._policy.table(self._params, self._version)
            self._free = list(range(self._shapes.slots - 1, -1, -1))
            with self._on_device():
                self._device = self._engine.empty(
                    self._params, self._shapes.slots, self._shapes.length, self._policy.cache_dtype
                )
        return True

    def _observe(self) -> None:
        """Appends to its slot what every operation that is done has returned."""
        pieces, now = [], time.monotonic()
        for slot, row in list(self._rows.items()):
            if row.future is None:
                continue
            if row.future.done():
                observation, layouts = row.future.result()
            elif now - row.since > self._policy.operation_seconds:
                error = f"the operation took more than {self._policy.operation_seconds:g} seconds"
                observation, layouts = row.episode.failure(row.call, error), {}
            else:
                continue
            start = row.episode.length
            rendered = row.episode.observe(row.call, observation)
            row.call = row.future = None
            if rendered is None:
                self._finish(slot)
                continue
            positions, following = self._processor.positions(rendered.tokens, rendered.media, row.position)
            row.position = following
            pieces.append(Piece(slot, start, rendered, positions, following, row.episode, layouts))
        self._extend(pieces)

    def _execute(self, episode: Episode, call: Call | OperationError) -> tuple[Observation, dict[Any, Layout]]:
        observation = episode.execute(call)
        return observation, self._layouts(observation.rendered)

    def _layouts(self, rendered: Rendered) -> dict[Any, Layout]:
        """The vision tower's input for the images that are not in the table yet; made in worker threads."""
        geometry = self._processor.geometry
        table = self._table
        missing = {media.key: media for media in rendered.media if table is None or media.key not in table}
        return {
            key: vision_layout([media], geometry, row_patches(media_patches(media, geometry), geometry), rows=1)
            for key, media in missing.items()
        }

    def _decode(self) -> None:
        """Samples a chunk for every slot that can go on; closes the turns that have ended."""
        drawing = {slot: row for slot, row in self._rows.items() if row.future is None}
        settings, budget = [self._sampling] * self._shapes.slots, [0] * self._shapes.slots
        for slot, row in drawing.items():
            settings[slot], budget[slot] = row.episode.settings, row.episode.turn_room
        patience = np.int32(max(1, len(drawing) // PATIENCE))
        steps = self._policy.decode_steps
        with self._on_device():
            self._device, decoded = self._engine.decode(
                self._params, self._device, Drawing.of(settings, budget), patience, steps=steps
            )
            decoded = jax.device_get(decoded)
        self._counters.decode_calls += 1
        self._counters.decode_steps += int(decoded.counts.max())
        for slot, row in drawing.items():
            episode, count, before = row.episode, decoded.counts[slot], row.episode.sampled
            columns = (column[slot, :count] for column in (decoded.tokens, decoded.logprobs, decoded.policy_logprobs))
            stopped = episode.add_sampled(*columns) or bool(decoded.stopped[slot])
            row.position += episode.sampled - before
            self._counters.sampled += episode.sampled - before
            if not stopped and episode.turn_room > 0:
                continue
            row.call = episode.end_turn(stopped)
            if row.call is None:
                self._finish(slot)
            else:
                row.future, row.since = self._operators.submit(self._execute, episode, row.call), time.monotonic()

    def _finish(self, slot: int) -> None:
        row = self._rows[slot]
        self._release(slot)
        self._finished.append((row.number, row.episode.trajectory()))

    def _release(self, slot: int) -> None:
        row = self._rows.pop(slot)
        if row.future is not None:
            row.future.cancel()
        self._free.append(slot)

    def _fork(self, forks: list[tuple[int, int, Episode]]) -> None:
        """Begins responses: (slot that holds the prompt, slot of the response, its episode) each."""
        while forks:
            size = next((size for size in self._shapes.forks if size >= len(forks)), self._shapes.forks[-1])
            some, forks = forks[:size], forks[size:]
            padding = size - len(some)
            source, target, episodes = zip(*some, *[(0, self._shapes.slots, some[0][2])] * padding, strict=True)
            prompts = [episode.prompt for episode in episodes]
            keys = sample_keys(self._seed, [prompt.id for prompt in prompts], [one.sample for one in episodes])
            lengths, positions = zip(*[(len(p.rendered.tokens), p.next_position) for p in prompts], strict=True)
            columns = (np.array(column, np.int32) for column in (source, target, lengths, positions))
            seen = self._seen([prompt.rendered.tokens for prompt in prompts])
            with self._on_device():
                self._device = self._engine.fork(self._device, Forks(*columns, keys, seen))

    def _extend(self, pieces: list[Piece]) -> None:
        """Appends pieces to their slots, `CHUNK` tokens at a time, those of about one length together."""
        for some in self._that_fit(pieces):
            index = self._encode(some)
            for start in range(0, max(len(piece.rendered.tokens) for piece in some), CHUNK):
                batches: dict[int, list[int]] = {}
                for number, piece in enumerate(some):
                    if (left := len(piece.rendered.tokens) - start) > 0:
                        batches.setdefault(self._shapes.width(min(left, CHUNK)), []).append(number)
                for width, numbers in sorted(batches.items()):
                    rows = self._shapes.rows(width)
                    for first in range(0, len(numbers), rows):
                        chosen = [(some[number], index[number]) for number in numbers[first : first + rows]]
                        self._append(chosen, start, width, rows)

    def _append(self, pieces: list[tuple[Piece, np.ndarray]], start: int, width: int, rows: int) -> None:
        """One call of `extend`: the tokens from `start` on of pieces with their places in the table."""
        added = Addition.blank(rows, width, self._shapes.slots)
        histories = []
        for row, (piece, index) in enumerate(pieces):
            tokens = piece.rendered.tokens[start : start + width]
            count, end = len(tokens), start + len(tokens)
            complete = end == len(piece.rendered.tokens)
            added.slots[row], added.starts[row], added.counts[row] = piece.slot, piece.start + start, count
            added.tokens[row, :count], added.positions[:, row, :count] = tokens, piece.positions[:, start:end]
            added.vision_index[row, :count] = index[start:end]
            added.position[row], added.token_index[row] = piece.following, piece.episode.sampled
            added.ends_prompt[row] = complete and piece.start == 0
            histories.append(piece.episode)
            self._counters.prefilled += count
        self._counters.prefill_padding += rows * width - int(added.counts.sum())
        self._counters.extend_calls += 1
        histories = [episode.tokens() for episode in histories] if self._engine.penalized else []
        seen = self._seen(histories + [np.zeros(0, np.int32)] * (rows - len(histories)))
        with self._on_device():
            self._device = self._engine.extend(self._params, self._device, self._table.array, added._replace(seen=seen))

    def _seen(self, histories: Sequence[np.ndarray]) -> np.ndarray | None:
        """bool [histories, vocab]: the tokens of each; None without a repetition penalty."""
        if not self._engine.penalized:
            return None
        seen = np.zeros((len(histories), self._policy.config.vocab_size), bool)
        for row, tokens in enumerate(histories):
            seen[row, tokens] = True
        return seen

    def _that_fit(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        """Pieces in turn, as many together as the table holds the images of."""
        some: list[Piece] = []
        held: dict[Any, int] = {}
        for piece in pieces:
            more = {media.key: media.tokens for media in piece.rendered.media}
            if some and sum((held | more).values()) > self._table.size:
                yield some
                some, held = [], {}
            some.append(piece)
            held |= more
        if some:
            yield some

    def _encode(self, pieces: list[Piece]) -> list[np.ndarray]:
        """Has every image of the pieces in the table: int32 [tokens] for each, -1 for text, else the row to take."""
        needed: dict[Any, tuple[Media, dict[Any, Layout]]] = {
            media.key: (media, piece.layouts) for piece in pieces for media in piece.rendered.media
        }
        batches: dict[int, list[tuple[Layout, np.ndarray]]] = {}
        for key, (media, layouts) in needed.items():
            if self._table.find(key) is not None:
                self._counters.encode_hits += 1
                continue
            layout = layouts.get(key)
            if layout is None:  # it was in the table when the worker looked, and has made room for others since
                layout = self._layouts(Rendered(np.empty(0, np.int32), np.empty(0, bool), [media]))[key]
            places = self._table.reserve(key, media.tokens, needed.keys())
            batches.setdefault(layout[0]["patches"].shape[1], []).append((layout, places))
            self._counters.encoded += 1
        for length, images in batches.items():
            rows = self._shapes.images(length)
            for first in range(0, len(images), rows):
                self._encode_rows(images[first : first + rows], rows, length)
        index = []
        for piece in pieces:
            places = np.full(len(piece.rendered.tokens), -1, np.int32)
            if piece.rendered.media:
                spots = np.isin(piece.rendered.tokens, self._processor.placeholder_tokens)
                places[spots] = np.concatenate([self._table.find(media.key) for media in piece.rendered.media])
            index.append(places)
        return index

    def _encode_rows(self, images: list[tuple[Layout, np.ndarray]], rows: int, length: int) -> None:
        """One call of `encode`: layouts of one length with their rows in the table."""
        merged = length // self._processor.geometry.merge_size**2
        vision = {name: np.concatenate([layout[0][name] for layout, _ in images]) for name in images[0][0][0]}
        if padding := rows - len(images):
            vision = {
                name: np.concatenate([x, np.zeros((padding, *x.shape[1:]), x.dtype)]) for name, x in vision.items()
            }
        places = np.full((rows, merged), self._table.size, np.int32)
        for row, ((_, (local,)), where) in enumerate(images):
            places[row, local] = where
        with self._on_device():
            self._table.array = self._engine.encode(self._params, self._table.array, vision, places.reshape(-1))

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._counters.device_seconds += time.perf_counter() - began
