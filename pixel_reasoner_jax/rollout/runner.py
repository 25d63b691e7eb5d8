"""Between scheduler and engine: what the scheduler wants in its slots as calls of the engine with declared shapes."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.parallel import is_shared, local_parts, local_rows, parts, shard_rows
from pixel_reasoner_jax.processing import Media, vision_layout
from pixel_reasoner_jax.rollout.embeddings import EmbeddingTable
from pixel_reasoner_jax.rollout.engine import Decoded, ExtendBatch, ForkBatch, Slots
from pixel_reasoner_jax.rollout.engine_calls import KINDS, MAX_WISHES, EngineCall, common_order, exchange
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.runtime import Runtime
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, SlotSampling, sample_seeds
from pixel_reasoner_jax.rollout.shapes import CHUNK, Shapes, row_patches


@dataclasses.dataclass
class Extension:
    """Tokens to append to a slot, which holds `start` tokens already.

    Attributes:
      slot: its number; see `ModelRunner`.
      episode: that of the slot.
      tokens, media: int32 [tokens], and the images among them in order.
      positions: int32 [3, tokens]; `following` is the position of the token after them.
      prompt: whether they complete a prompt, which can be forked from then on.
    """

    slot: int
    start: int
    episode: Episode
    tokens: np.ndarray
    media: Sequence[Media]
    positions: np.ndarray
    following: int
    prompt: bool


@dataclasses.dataclass
class Counters:
    """What rollouts have done; sums.

    Attributes:
      sampled: tokens drawn and kept.
      prefilled: tokens of prompts and observations put through the model; `prefill_padding` is what went with them.
      decode_steps, decode_calls: tokens drawn one after the other, and calls of the device for them.
      extend_calls: calls of the device to append tokens.
      encoded: images encoded; `encode_hits` were in the table already.
      encode_padding: patches that went with those of images encoded.
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
    encode_padding: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    idle_seconds: float = 0.0


class ModelRunner:
    """Runs the model for one rollout: owns its slots with their cache, and fills the table of embeddings.

    Slots are numbered through all parts of the mesh (`parallel.parts`) that this process feeds, `shapes.slots` in each.
    With one part, calls of the engine are made as they are asked for; with more, they wait for `flush`.

    Args:
      runtime: its parameters, as they are now, are used to the end of the rollout.
      sampling: settings of all turns.
      seed: of the rollout.
      counters: add up what it does.

    Attributes:
      shapes: declared for it; None before `grow`.
      parts: how many parts of the mesh this process feeds.
      joined: whether other processes feed parts of it too.
    """

    def __init__(self, runtime: Runtime, sampling: SamplingSettings, seed: int, counters: Counters):
        self._runtime, self._params, self._version = runtime, runtime.params, runtime.version
        self._engine, self._processor, self._counters = runtime.engine, runtime.processor, counters
        self._sampling, self._seed = sampling, seed
        self._mesh = runtime.mesh
        self._alone = parts(self._mesh) == 1
        self.joined = is_shared(self._mesh)
        self.parts = len(local_parts(self._mesh))
        self._queues: list[collections.deque[EngineCall]] = [collections.deque() for _ in range(self.parts)]
        self._forbidden = runtime.forbidden(sampling)
        self.shapes: Shapes | None = None
        self._table: EmbeddingTable | None = None
        self._slots: Slots | None = None

    def check(self) -> None:
        """Raises a RuntimeError where the parameters are gone."""
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(self._params)):
            raise RuntimeError(
                "an update took the memory of the parameters that this rollout uses: read it to its end or close it"
                " before the update, or give the policy a copy of them"
            )

    def grow(self, slots: int, length: int) -> None:
        """Makes empty slots, at least so many in each part of at least so many tokens; what they held is gone."""
        self._slots = self._table = None  # before new ones are made, or both would be in memory
        self.shapes = self._runtime.declare(slots, length)
        self._table = self._runtime.table(self._params, self._version)
        count, dtype = self.shapes.slots * parts(self._mesh), self._runtime.cache_dtype
        with self._busy():
            self._slots = self._engine.empty(self._params, count, self.shapes.length, dtype, self._sampling.penalized)

    def warmup(self) -> None:
        """Has every program run once, on nothing."""
        shapes = self.shapes
        sizes = [(0, size) for size in shapes.patches] + [(1, size) for size in shapes.widths]
        sizes += [(2, size) for size in shapes.forks]
        with Progress("compiling", len(sizes) + 1) as progress:
            for done, (kind, size) in enumerate(sizes, start=1):
                self._run((kind, size))
                progress.update(done)
            self.decode({}, 1, 1)
            jax.block_until_ready(self._slots)
            progress.update(len(sizes) + 1)

    def close(self) -> None:
        """Lets go of all memory on the device, but for the table, which is the policy's."""
        self._slots = self._table = self._params = None

    def working(self) -> bool:
        """Whether something that was asked for is not done yet."""
        return self._slots is not None and not self._slots.hidden.is_ready() or any(self._queues)

    def holds(self, media: Media) -> bool:
        """Whether an image need not be encoded any more."""
        table = self._table
        return table is not None and media.key in table

    def decode(self, episodes: Mapping[int, Episode], most: int, patience: int) -> Decoded:
        """Samples for the episodes, by slot, and waits for it.

        Args:
          most: tokens, at most, for each of them.
          patience: ends the chunk when so many slots of all processes have ended their turn. All processes call this
            together, with the same numbers.
        """
        count = self.shapes.slots * self.parts
        settings, budget = [self._sampling] * count, [0] * count
        for slot, episode in episodes.items():
            settings[slot], budget[slot] = episode.settings, episode.turn_room
        with self._busy():
            self._slots, decoded = self._engine.decode(
                self._params,
                self._slots,
                shard_rows(SlotSampling.of(settings, budget), self._mesh),
                self._forbidden,
                np.int32(most),
                np.int32(patience),
                steps=self._runtime.decode_steps,
                filtered=self._sampling.filtered,
            )
            decoded = local_rows(decoded)
        self._counters.decode_calls += bool(episodes)
        self._counters.decode_steps += int(decoded.counts.max())
        return decoded

    def fork(self, forks: list[tuple[int, int, Episode]]) -> None:
        """Begins responses: (slot that holds the prompt, slot of the response, its episode) each."""
        for part in range(self.parts):
            left = [fork for fork in forks if self.part(fork[1]) == part]
            while left:
                size = next((size for size in self.shapes.forks if size >= len(left)), self.shapes.forks[-1])
                some, left = left[:size], left[size:]
                self._ask(part, EngineCall("fork", size, self._forks(some, size)))

    def _forks(self, forks: list[tuple[int, int, Episode]], size: int) -> ForkBatch:
        padding = size - len(forks)
        source, target, episodes = zip(*forks, *[(0, self.shapes.slots, forks[0][2])] * padding, strict=True)
        prompts = [episode.prompt for episode in episodes]
        seeds = sample_seeds(self._seed, [prompt.id for prompt in prompts], [one.sample for one in episodes])
        lengths, positions = zip(*[(len(p.rendered.tokens), p.next_position) for p in prompts], strict=True)
        source, target = np.array(source, np.int32) % self.shapes.slots, np.array(target, np.int32)
        target[: len(forks)] %= self.shapes.slots
        seen = self._seen([prompt.rendered.tokens for prompt in prompts])
        return ForkBatch(source, target, np.array(lengths, np.int32), np.array(positions, np.int32), seeds, seen)

    def part(self, slot: int) -> int:
        """Which of this process's parts a slot is in."""
        return slot // self.shapes.slots

    def flush(self, *status: int) -> np.ndarray:
        """Makes the calls that wait, together with all processes, which call this together.

        Args:
          status: small integers for all processes to know.

        Returns:
          int [processes, len(status)].
        """
        while True:
            wishes = [[call.name for call in itertools.islice(queue, MAX_WISHES)] for queue in self._queues]
            more = any(len(queue) > MAX_WISHES for queue in self._queues)
            with self._busy() if self.joined else contextlib.nullcontext():  # the others may be long in coming
                every, told = exchange(wishes, (more, *status), self.joined)
            for name in common_order(every):
                self._run(name)
            if not told[:, 0].any():
                return told[:, 1:]

    def _ask(self, part: int, call: EngineCall) -> None:
        self._queues[part].append(call)
        if self._alone:
            self.flush()

    def _run(self, name: tuple[int, int]) -> None:
        """One call, of every part that has it at the head of its queue; the others take part with padding."""
        kind, size = KINDS[name[0]], name[1]
        loads = [
            queue.popleft().load if queue and queue[0].name == name else self._blank(kind, size)
            for queue in self._queues
        ]
        load = loads[0] if len(loads) == 1 else jax.tree.map(lambda *rows: np.concatenate(rows), *loads)
        load = shard_rows(load, self._mesh)
        with self._busy():
            if kind == "encode":
                self._table.array = self._engine.encode(self._params, self._table.array, *load)
            elif kind == "extend":
                self._slots = self._engine.extend(self._params, self._slots, self._table.array, load)
            else:
                self._slots = self._engine.fork(self._slots, load)

    def _blank(self, kind: str, size: int) -> Any:
        """The load of a call that does nothing."""
        slots = self.shapes.slots
        if kind == "encode":
            return self._vision([], size)
        vocab = self._runtime.config.vocab_size if self._sampling.penalized else None
        if kind == "fork":
            return ForkBatch.blank(size, slots, vocab)
        return ExtendBatch.blank(self.shapes.rows(size), size, slots)._replace(
            seen=self._seen([], self.shapes.rows(size))
        )

    def extend(self, extensions: list[Extension]) -> None:
        """Appends extensions to their slots, `CHUNK` tokens at a time, those of about one length together."""
        for part in range(self.parts):
            self._extend([extension for extension in extensions if self.part(extension.slot) == part], part)

    def _extend(self, extensions: list[Extension], part: int) -> None:
        for some in self._that_fit(extensions):
            index = self._encode(some, part)
            for start in range(0, max(len(extension.tokens) for extension in some), CHUNK):
                batches: dict[int, list[int]] = {}
                for number, extension in enumerate(some):
                    if (left := len(extension.tokens) - start) > 0:
                        batches.setdefault(self.shapes.width(min(left, CHUNK)), []).append(number)
                for width, numbers in sorted(batches.items()):
                    rows = self.shapes.rows(width)
                    for first in range(0, len(numbers), rows):
                        chosen = [(some[number], index[number]) for number in numbers[first : first + rows]]
                        self._ask(part, EngineCall("extend", width, self._extend_batch(chosen, start, width, rows)))

    def _extend_batch(
        self, extensions: list[tuple[Extension, np.ndarray]], start: int, width: int, rows: int
    ) -> ExtendBatch:
        """The load of an `extend`: the tokens from `start` on of extensions with their places in the table."""
        added = ExtendBatch.blank(rows, width, self.shapes.slots)
        histories = []
        for row, (extension, index) in enumerate(extensions):
            tokens = extension.tokens[start : start + width]
            count, end = len(tokens), start + len(tokens)
            slot = extension.slot % self.shapes.slots
            added.slots[row], added.starts[row], added.counts[row] = slot, extension.start + start, count
            added.tokens[row, :count], added.positions[row, :, :count] = tokens, extension.positions[:, start:end]
            added.vision_index[row, :count] = index[start:end]
            added.position[row], added.token_index[row] = extension.following, extension.episode.sampled
            added.ends_prompt[row] = extension.prompt and end == len(extension.tokens)
            histories.append(extension.episode)
            self._counters.prefilled += count
        self._counters.prefill_padding += rows * width - int(added.counts.sum())
        self._counters.extend_calls += 1
        histories = [episode.tokens() for episode in histories] if self._sampling.penalized else []
        return added._replace(seen=self._seen(histories, rows))

    def _seen(self, histories: Sequence[np.ndarray], rows: int | None = None) -> np.ndarray | None:
        """bool [rows, vocab]: the tokens of each history, a row for each unless given; None without a penalty."""
        if not self._sampling.penalized:
            return None
        seen = np.zeros((len(histories) if rows is None else rows, self._runtime.config.vocab_size), bool)
        for row, tokens in enumerate(histories):
            seen[row, tokens] = True
        return seen

    def _that_fit(self, extensions: list[Extension]) -> Iterator[list[Extension]]:
        """Extensions in turn, as many together as the table holds the images of."""
        some: list[Extension] = []
        held: dict[Any, int] = {}
        for extension in extensions:
            more = {media.key: media.tokens for media in extension.media}
            if some and sum((held | more).values()) > self._table.allocators[0].size:
                yield some
                some, held = [], {}
            some.append(extension)
            held |= more
        if some:
            yield some

    def _encode(self, extensions: list[Extension], part: int) -> list[np.ndarray]:
        """Sees that the table has every image of the extensions.

        Returns:
          int32 [tokens] for each extension: the row of the table that stands in for the token, -1 for text.
        """
        allocator = self._table.allocators[part]
        needed = {media.key: media for extension in extensions for media in extension.media}
        geometry = self._processor.geometry
        batches: dict[int, list[tuple[Media, np.ndarray]]] = {}
        for key, media in needed.items():
            if allocator.find(key) is not None:
                self._counters.encode_hits += 1
                continue
            places = allocator.reserve(key, media.tokens, needed.keys())
            length = row_patches(media.grid, geometry)
            batches.setdefault(length, []).append((media, places))
            self._counters.encoded += 1
        for length, images in batches.items():
            rows = self.shapes.images(length)
            for first in range(0, len(images), rows):
                self._ask(part, EngineCall("encode", length, self._vision(images[first : first + rows], length)))
        index = []
        for extension in extensions:
            places = np.full(len(extension.tokens), -1, np.int32)
            if extension.media:
                spots = np.isin(extension.tokens, self._processor.placeholder_tokens)
                places[spots] = np.concatenate([allocator.find(media.key) for media in extension.media])
            index.append(places)
        return index

    def _vision(self, images: list[tuple[Media, np.ndarray]], length: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The load of an `encode`: images that take rows of one length, and where their embeddings go in the table."""
        geometry, rows = self._processor.geometry, self.shapes.images(length)
        places = np.full(rows * length // geometry.merge_size**2, self._table.allocators[0].size, np.int32)
        vision, local = vision_layout([media for media, _ in images], geometry, length, rows)
        for where, (_, reserved) in zip(local, images, strict=True):
            places[where] = reserved
        if images:
            self._counters.encode_padding += rows * length - sum(math.prod(media.grid) for media, _ in images)
        return vision, places

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._counters.device_seconds += time.perf_counter() - began
