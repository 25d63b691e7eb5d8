"""Between scheduler and engine: turns what the scheduler wants in its slots into engine calls of declared shapes."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.models.cache import Reads
from pixel_reasoner_jax.parallel import is_shared, local_parts, local_rows, parts, shard_rows
from pixel_reasoner_jax.processing import Media
from pixel_reasoner_jax.rollout.batches import Extension, Fork, encode_batch, extend_batch, fork_batch
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.embeddings import EmbeddingTable
from pixel_reasoner_jax.rollout.engine_arrays import Decoded, Slots
from pixel_reasoner_jax.rollout.engine_calls import KINDS, MAX_CALLS, EngineCall, ProgramKey, common_order, exchange
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.pages import ResponsePages, list_reads
from pixel_reasoner_jax.rollout.runtime import Runtime
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, SlotSampling
from pixel_reasoner_jax.rollout.shapes import CHUNK, SAVED_PAGES, Shapes, row_patches


@dataclasses.dataclass
class DecodingSlot:
    """A slot to sample for: its response, and the response's pages with room for what is sampled."""

    episode: Episode
    pages: ResponsePages


class Saved:
    """Pages in the host's memory, in the pieces in which they come."""

    def __init__(self, pages: int):
        self._expected = -(-pages // SAVED_PAGES)
        self.pieces: list[list[np.ndarray]] = []

    @property
    def is_ready(self) -> bool:
        """Whether all of them have come."""
        return len(self.pieces) == self._expected


class ModelRunner:
    """Runs the model for one rollout: keeps its slots with their KV cache, and fills the embedding table.

    Slots are numbered through all parts of the mesh (`parallel.parts`) that this process feeds: `shapes.slots` for the
    first part, then those of the next. On a mesh of one part, engine calls are made at once; with more parts they wait
    in one queue for each part until `flush`.

    Args:
      runtime: the rollout uses its present parameters to the end, whatever is assigned to it later.
      sampling: settings of all turns.
      decode_steps: the most tokens of a slot that one call of `decode` samples.
      counters: what the runner does is added to them.

    Attributes:
      shapes: the declared shapes of its engine calls; None before `grow`.
      parts: how many parts of the mesh this process feeds.
      shared: whether other processes feed parts of the mesh too.
    """

    def __init__(self, runtime: Runtime, sampling: SamplingSettings, decode_steps: int, counters: Counters):
        self._runtime, self._params, self._version = runtime, runtime.rollout_params(), runtime.version
        self._engine, self._processor, self._counters = runtime.engine, runtime.processor, counters
        self._sampling, self._decode_steps = sampling, decode_steps
        self._mesh = runtime.mesh
        self._has_one_part = parts(self._mesh) == 1
        self.shared = is_shared(self._mesh)
        self.parts = len(local_parts(self._mesh))
        self._queues: list[collections.deque[EngineCall]] = [collections.deque() for _ in range(self.parts)]
        self._forbidden = runtime.forbidden(sampling)
        self._vocab = runtime.config.vocab_size if sampling.penalized else None  # of `Slots.seen`
        self.shapes: Shapes | None = None
        self._table: EmbeddingTable | None = None
        self._slots: Slots | None = None

    def check(self) -> None:
        """Raises a RuntimeError if the parameters' buffers have been donated to an update."""
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(self._params)):
            raise RuntimeError(
                "an update took the memory of the parameters that this rollout uses: read it to its end or close it"
                " before the update, or give the policy a copy of them"
            )

    def grow(self, slots: int, length: int, cache_tokens: int | None) -> None:
        """Replaces all slots by empty ones: at least `slots` in each part of the mesh, of at least `length` tokens.

        Args:
          cache_tokens: that the cache of a part holds; see `Shapes.holding`.
        """
        self._slots = self._table = None  # before new ones are made, or both would be in memory
        self.shapes = self._runtime.declare(slots, length, cache_tokens)
        self._table = self._runtime.table(self._params, self._version)
        shapes, count, dtype = self.shapes, parts(self._mesh), self._runtime.cache_dtype
        sizes = shapes.slots * count, shapes.pages * count, shapes.page, shapes.items * count
        with self._busy():
            self._slots = self._engine.empty(
                self._params, self._runtime.scale_text, *sizes, dtype, self._sampling.penalized
            )

    def warmup(self) -> None:
        """Runs every program once, on padding alone, so that it is compiled."""
        shapes = self.shapes
        sizes = [(0, size) for size in shapes.patches] + [(1, size) for size in shapes.widths]
        sizes += [(2, size) for size in shapes.forks] + [(3, SAVED_PAGES), (4, SAVED_PAGES)]
        with Progress("compiling", len(sizes) + 1) as progress:
            for done, (kind, size) in enumerate(sizes, start=1):
                self._run((kind, size))
                progress.update(done)
            self.decode({}, 1, 1)
            jax.block_until_ready(self._slots)
            progress.update(len(sizes) + 1)

    def temporary_bytes(self) -> int:
        """Bytes that a call needs on a device beside its arguments, at most; the calls that need most are compiled."""
        encode, *extends = self.shapes.patches[-1], self.shapes.widths[0], self.shapes.widths[-1]
        images, given = self._table.array, (self._params, self._slots)
        lowered = [self._engine.encode.lower(self._params, images, *self._global(self._padding("encode", encode)))]
        lowered += [
            self._engine.extend.lower(*given, images, self._global(self._padding("extend", size))) for size in extends
        ]
        given, fixed = self._decode_arguments({}, 1, 1)
        lowered.append(self._engine.decode.lower(*given, **fixed))
        return max(program.compile().memory_analysis().temp_size_in_bytes for program in lowered)

    def _global(self, *by_part: Any) -> Any:
        """The arguments of a call for all parts of the mesh, from those of each part; one stands for all."""
        by_part = by_part * self.parts if len(by_part) == 1 else by_part
        arguments = by_part[0] if len(by_part) == 1 else jax.tree.map(lambda *rows: np.concatenate(rows), *by_part)
        return shard_rows(arguments, self._mesh)

    def close(self) -> None:
        """Releases the device memory of the slots and the parameters; the embedding table stays with the runtime."""
        self._slots = self._table = self._params = None

    def working(self) -> bool:
        """Whether the device has not finished the calls made so far, or calls are still queued."""
        return self._slots is not None and not self._slots.hidden.is_ready() or any(self._queues)

    def holds(self, media: Media) -> bool:
        """Whether the embedding table holds an image, so that it need not be encoded."""
        table = self._table
        return table is not None and media.key in table

    def held(self, part: int) -> Container[Any]:
        """The keys of the images that a part of the table holds."""
        return self._table.allocators[part]

    def decode(self, decoding: Mapping[int, DecodingSlot], most: int, patience: int) -> Decoded:
        """Samples a chunk of tokens and waits for the result. All processes call this together.

        Args:
          decoding: what to sample for, by slot.
          most: tokens for each of them at most; the same number on all processes.
          patience: the chunk ends when this many slots, of all processes, have ended their turn; the same number on
            all processes.

        Returns:
          Numpy arrays, whose rows are the slots of this process.
        """
        with self._busy():
            given, fixed = self._decode_arguments(decoding, most, patience)
            self._slots, decoded = self._engine.decode(*given, **fixed)
            decoded = local_rows(decoded)
        self._counters.decode_calls += bool(decoding)
        self._counters.decode_steps += int(decoded.counts.max())
        return decoded

    def _decode_arguments(
        self, decoding: Mapping[int, DecodingSlot], most: int, patience: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a `decode`, and the static ones by name."""
        count = self.shapes.slots * self.parts
        settings, budget = [self._sampling] * count, [0] * count
        table = np.zeros((count, self.shapes.slot_pages), np.int32)
        listed: list[list[tuple[int, ResponsePages, int]]] = [[] for _ in range(self.parts)]
        for slot, one in decoding.items():
            settings[slot], budget[slot] = one.episode.settings, one.episode.turn_room
            part, tokens = self.part(slot), one.episode.length + min(most, budget[slot])
            listed[part].append((slot % self.shapes.slots, one.pages, tokens))
            numbers = one.pages.prompt.full + one.pages.own
            table[slot, : len(numbers)] = numbers
        reads = [list_reads(self.shapes, rows) for rows in listed]
        reads = Reads(*(np.concatenate(arrays) for arrays in zip(*reads, strict=True)))
        rows = shard_rows((table, reads, SlotSampling.of(settings, budget)), self._mesh)
        given = self._params, self._slots, *rows, self._forbidden, np.int32(most), np.int32(patience)
        return given, dict(
            steps=self._decode_steps, filtered=self._sampling.filtered or any(one.filtered for one in settings)
        )

    def fork(self, forks: list[Fork]) -> None:
        """Begins responses."""
        for part in range(self.parts):
            remaining = [fork for fork in forks if self.part(fork.slot) == part]
            while remaining:
                size = next((size for size in self.shapes.forks if size >= len(remaining)), self.shapes.forks[-1])
                batch, remaining = remaining[:size], remaining[size:]
                self._enqueue(part, EngineCall("fork", size, fork_batch(batch, size, self.shapes, self._vocab)))

    def save(self, part: int, pages: Sequence[int]) -> Saved:
        """Has pages brought to the host's memory; calls that are made later may overwrite them."""
        saved = Saved(len(pages))
        for first in range(0, len(pages), SAVED_PAGES):
            numbers = np.zeros(SAVED_PAGES, np.int32)
            numbers[: len(pages) - first] = pages[first : first + SAVED_PAGES]
            self._enqueue(part, EngineCall("save", SAVED_PAGES, (numbers,), saved.pieces.append))
        return saved

    def load(self, part: int, pages: Sequence[int], saved: Saved) -> None:
        """Has saved pages written into others."""
        for first, piece in zip(range(0, len(pages), SAVED_PAGES), saved.pieces, strict=True):
            numbers = np.full(SAVED_PAGES, self.shapes.pages, np.int32)
            numbers[: len(pages) - first] = pages[first : first + SAVED_PAGES]
            self._enqueue(part, EngineCall("load", SAVED_PAGES, (numbers, piece)))

    def part(self, slot: int) -> int:
        """The index of the part that a slot is in, among the parts of this process."""
        return slot // self.shapes.slots

    def flush(self, *status: int) -> np.ndarray:
        """Makes all queued calls and gathers the statuses of all processes, which call this together.

        Args:
          status: small integers that the other processes receive.

        Returns:
          int32 [processes, len(status)].
        """
        while True:
            queues = [[call.program for call in itertools.islice(queue, MAX_CALLS)] for queue in self._queues]
            more = any(len(queue) > MAX_CALLS for queue in self._queues)
            with self._busy() if self.shared else contextlib.nullcontext():  # the others may be long in coming
                all_queues, statuses = exchange(queues, (more, *status), self.shared)
            for program in common_order(all_queues):
                self._run(program)
            if not statuses[:, 0].any():
                return statuses[:, 1:]

    def _enqueue(self, part: int, call: EngineCall) -> None:
        self._queues[part].append(call)
        if self._has_one_part:
            self.flush()

    def _run(self, program: ProgramKey) -> None:
        """Makes one call for every part that has it at the head of its queue; the other parts get padding."""
        kind, size = KINDS[program[0]], program[1]
        calls = [
            queue.popleft() if queue and queue[0].program == program else EngineCall(kind, size, None)
            for queue in self._queues
        ]
        by_part = [self._padding(kind, size) if call.arguments is None else call.arguments for call in calls]
        arguments = self._global(*by_part)
        with self._busy():
            if kind == "encode":
                self._table.array = self._engine.encode(self._params, self._table.array, *arguments)
            elif kind == "extend":
                self._slots = self._engine.extend(self._params, self._slots, self._table.array, arguments)
            elif kind == "fork":
                self._slots = self._engine.fork(self._slots, arguments)
            elif kind == "save":
                saved = local_rows(self._engine.save(self._slots, *arguments))
                for number, call in enumerate(calls):
                    if call.receive is not None:
                        call.receive([array[number * size : (number + 1) * size].copy() for array in saved])
            else:
                self._slots = self._engine.load(self._slots, *arguments)

    def _padding(self, kind: str, size: int) -> Any:
        """The arguments of a call that changes nothing."""
        shapes = self.shapes
        if kind == "encode":
            return self._encode_batch([], size)
        if kind == "fork":
            return fork_batch([], size, shapes, self._vocab)
        if kind == "save":
            return (np.zeros(size, np.int32),)
        if kind == "load":
            saved = [np.zeros(shape.shape, shape.dtype) for shape in self._slots.cache.saved_shapes(size)]
            return np.full(size, shapes.pages, np.int32), saved
        return extend_batch([], 0, size, shapes, self._vocab)

    def extend(self, extensions: list[Extension]) -> None:
        """Appends extensions to their slots: `CHUNK` tokens at a time, chunks of one bucket of lengths in one call."""
        for part in range(self.parts):
            self._extend([one for one in extensions if self.part(one.slot) == part], part)

    def _extend(self, extensions: list[Extension], part: int) -> None:
        # First those that encode nothing: the images of the others may take the places of theirs.
        in_order = sorted(extensions, key=lambda one: any(media.key not in self.held(part) for media in one.media))
        for group in self._split_by_images(in_order):
            vision_index = self._encode(group, part)
            for start in range(0, max(len(extension.tokens) for extension in group), CHUNK):
                batches: dict[int, list[int]] = {}
                # Rows of a call that hold about as much read about as much.
                for number in sorted(range(len(group)), key=lambda number: group[number].start):
                    extension = group[number]
                    if (remaining := len(extension.tokens) - start) > 0:
                        batches.setdefault(self.shapes.width(min(remaining, CHUNK)), []).append(number)
                for width, numbers in sorted(batches.items()):
                    rows = self.shapes.rows(width)
                    for first in range(0, len(numbers), rows):
                        chosen = [(group[number], vision_index[number]) for number in numbers[first : first + rows]]
                        batch = extend_batch(chosen, start, width, self.shapes, self._vocab)
                        self._counters.prefilled += int(batch.counts.sum())
                        self._counters.prefill_padding += rows * width - int(batch.counts.sum())
                        self._counters.extend_calls += 1
                        self._enqueue(part, EngineCall("extend", width, batch))

    def _split_by_images(self, extensions: list[Extension]) -> Iterator[list[Extension]]:
        """Splits extensions, in order, into groups whose images fit into the embedding table at the same time."""
        group: list[Extension] = []
        tokens: dict[Any, int] = {}  # of each image of the group, by its key
        for extension in extensions:
            added = {media.key: media.tokens for media in extension.media}
            if group and sum((tokens | added).values()) > self._table.allocators[0].size:
                yield group
                group, tokens = [], {}
            group.append(extension)
            tokens |= added
        if group:
            yield group

    def _encode(self, extensions: list[Extension], part: int) -> list[np.ndarray]:
        """Encodes the images of the extensions that are not in the part's embedding table yet.

        Returns:
          The `vision_index` of each extension, int32 [tokens]: the row of the table that replaces the token's
          embedding, -1 for text.
        """
        allocator = self._table.allocators[part]
        needed = {media.key: media for extension in extensions for media in extension.media}
        geometry = self._processor.geometry
        batches: dict[int, list[tuple[Media, np.ndarray]]] = {}
        for key, media in needed.items():
            if allocator.find(key) is not None:
                self._counters.encode_hits += 1
                continue
            table_rows = allocator.reserve(key, media.tokens, needed.keys())
            length = row_patches(media.grid, geometry)
            batches.setdefault(length, []).append((media, table_rows))
            self._counters.encoded += 1
        for length, images in batches.items():
            rows = self.shapes.images(length)
            for first in range(0, len(images), rows):
                some = images[first : first + rows]
                self._counters.encode_padding += rows * length - sum(math.prod(media.grid) for media, _ in some)
                self._enqueue(part, EngineCall("encode", length, self._encode_batch(some, length)))
        indices = []
        for extension in extensions:
            vision_index = np.full(len(extension.tokens), -1, np.int32)
            if extension.media:
                is_placeholder = np.isin(extension.tokens, self._processor.placeholder_tokens)
                vision_index[is_placeholder] = np.concatenate([allocator.find(media.key) for media in extension.media])
            indices.append(vision_index)
        return indices

    def _encode_batch(
        self, images: list[tuple[Media, np.ndarray]], length: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        size = self._table.allocators[0].size
        return encode_batch(images, length, self.shapes, self._processor.geometry, size)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """Counts the time of the body towards `Counters.device_seconds`."""
        began = time.perf_counter()
        yield
        self._counters.device_seconds += time.perf_counter() - began
