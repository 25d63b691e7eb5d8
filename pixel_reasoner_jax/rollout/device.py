"""Calls of the engine with declared shapes: what the scheduler wants in its slots, packed, padded and in order."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.parallel import deal, is_shared, own, own_parts, parts
from pixel_reasoner_jax.processing import Media, vision_layout
from pixel_reasoner_jax.rollout.calls import KINDS, TOGETHER, Call, common_order, exchange
from pixel_reasoner_jax.rollout.embeddings import EmbeddingTable, Places
from pixel_reasoner_jax.rollout.engine import Addition, Decoded, Forks, Slots
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.sampling import Drawing, SamplingSettings, sample_seeds
from pixel_reasoner_jax.rollout.shapes import CHUNK, Shapes, row_patches

if TYPE_CHECKING:
    from pixel_reasoner_jax.rollout.policy import Policy


@dataclasses.dataclass
class Piece:
    """Tokens to append to a slot that holds `start` of them.

    Attributes:
      slot: its number; see `Device`.
      episode: whose slot it is.
      tokens, media: int32 [tokens] and the images among them, in order.
      positions: int32 [3, tokens]; `following` is the position after.
      prompt: it completes a prompt, which can then be forked.
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


class Device:
    """The slots of one rollout, their cache and the images' embeddings.

    Slots are numbered through the parts of the mesh (`parallel.parts`) that are this process's: `shapes.slots` for
    each. With one part, calls are made as they are asked for; with more, they wait for `flush`.

    Args:
      policy: whose parameters, as they are now, serve all of the rollout.
      sampling: of all turns.
      seed: of the rollout.
      counters: add up what it does.

    Attributes:
      shapes: declared for it; None before `grow`.
      parts: those of the mesh that are this process's.
      joined: other processes have parts of it too.
    """

    def __init__(self, policy: Policy, sampling: SamplingSettings, seed: int, counters: Counters):
        self._policy, self._params, self._version = policy, policy.params, policy.version
        self._engine, self._processor, self._counters = policy.engine, policy.processor, counters
        self._sampling, self._seed = sampling, seed
        self._mesh = policy.mesh
        self._alone = parts(self._mesh) == 1
        self.joined = is_shared(self._mesh)
        self.parts = len(own_parts(self._mesh))
        self._queues: list[collections.deque[Call]] = [collections.deque() for _ in range(self.parts)]
        self._forbidden = policy.forbidden(sampling)
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
        self.shapes = self._policy.declare(slots, length)
        self._table = self._policy.table(self._params, self._version)
        count, dtype = self.shapes.slots * parts(self._mesh), self._policy.cache_dtype
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
                deal(Drawing.of(settings, budget), self._mesh),
                self._forbidden,
                np.int32(most),
                np.int32(patience),
                steps=self._policy.decode_steps,
                filtered=self._sampling.filtered,
            )
            decoded = own(decoded)
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
                self._ask(part, Call("fork", size, self._forks(some, size)))

    def _forks(self, forks: list[tuple[int, int, Episode]], size: int) -> Forks:
        padding = size - len(forks)
        source, target, episodes = zip(*forks, *[(0, self.shapes.slots, forks[0][2])] * padding, strict=True)
        prompts = [episode.prompt for episode in episodes]
        seeds = sample_seeds(self._seed, [prompt.id for prompt in prompts], [one.sample for one in episodes])
        lengths, positions = zip(*[(len(p.rendered.tokens), p.next_position) for p in prompts], strict=True)
        source, target = np.array(source, np.int32) % self.shapes.slots, np.array(target, np.int32)
        target[: len(forks)] %= self.shapes.slots
        seen = self._seen([prompt.rendered.tokens for prompt in prompts])
        return Forks(source, target, np.array(lengths, np.int32), np.array(positions, np.int32), seeds, seen)

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
            wishes = [[call.name for call in itertools.islice(queue, TOGETHER)] for queue in self._queues]
            more = any(len(queue) > TOGETHER for queue in self._queues)
            with self._busy() if self.joined else contextlib.nullcontext():  # the others may be long in coming
                every, told = exchange(wishes, (more, *status), self.joined)
            for name in common_order(every):
                self._run(name)
            if not told[:, 0].any():
                return told[:, 1:]

    def _ask(self, part: int, call: Call) -> None:
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
        load = deal(load, self._mesh)
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
        vocab = self._policy.config.vocab_size if self._sampling.penalized else None
        if kind == "fork":
            return Forks.blank(size, slots, vocab)
        return Addition.blank(self.shapes.rows(size), size, slots)._replace(seen=self._seen([], self.shapes.rows(size)))

    def extend(self, pieces: list[Piece]) -> None:
        """Appends pieces to their slots, `CHUNK` tokens at a time, those of about one length together."""
        for part in range(self.parts):
            self._extend([piece for piece in pieces if self.part(piece.slot) == part], part)

    def _extend(self, pieces: list[Piece], part: int) -> None:
        for some in self._that_fit(pieces):
            index = self._encode(some, part)
            for start in range(0, max(len(piece.tokens) for piece in some), CHUNK):
                batches: dict[int, list[int]] = {}
                for number, piece in enumerate(some):
                    if (left := len(piece.tokens) - start) > 0:
                        batches.setdefault(self.shapes.width(min(left, CHUNK)), []).append(number)
                for width, numbers in sorted(batches.items()):
                    rows = self.shapes.rows(width)
                    for first in range(0, len(numbers), rows):
                        chosen = [(some[number], index[number]) for number in numbers[first : first + rows]]
                        self._ask(part, Call("extend", width, self._addition(chosen, start, width, rows)))

    def _addition(self, pieces: list[tuple[Piece, np.ndarray]], start: int, width: int, rows: int) -> Addition:
        """The load of an `extend`: the tokens from `start` on of pieces with their places in the table."""
        added = Addition.blank(rows, width, self.shapes.slots)
        histories = []
        for row, (piece, index) in enumerate(pieces):
            tokens = piece.tokens[start : start + width]
            count, end = len(tokens), start + len(tokens)
            slot = piece.slot % self.shapes.slots
            added.slots[row], added.starts[row], added.counts[row] = slot, piece.start + start, count
            added.tokens[row, :count], added.positions[row, :, :count] = tokens, piece.positions[:, start:end]
            added.vision_index[row, :count] = index[start:end]
            added.position[row], added.token_index[row] = piece.following, piece.episode.sampled
            added.ends_prompt[row] = piece.prompt and end == len(piece.tokens)
            histories.append(piece.episode)
            self._counters.prefilled += count
        self._counters.prefill_padding += rows * width - int(added.counts.sum())
        self._counters.extend_calls += 1
        histories = [episode.tokens() for episode in histories] if self._sampling.penalized else []
        return added._replace(seen=self._seen(histories, rows))

    def _seen(self, histories: Sequence[np.ndarray], rows: int | None = None) -> np.ndarray | None:
        """bool [rows, vocab]: the tokens of each history, a row for each unless given; None without a penalty."""
        if not self._sampling.penalized:
            return None
        seen = np.zeros((len(histories) if rows is None else rows, self._policy.config.vocab_size), bool)
        for row, tokens in enumerate(histories):
            seen[row, tokens] = True
        return seen

    def _that_fit(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        """Pieces in turn, as many together as the table holds the images of."""
        some: list[Piece] = []
        held: dict[Any, int] = {}
        for piece in pieces:
            more = {media.key: media.tokens for media in piece.media}
            if some and sum((held | more).values()) > self._table.places[0].size:
                yield some
                some, held = [], {}
            some.append(piece)
            held |= more
        if some:
            yield some

    def _encode(self, pieces: list[Piece], part: int) -> list[np.ndarray]:
        """Has every image of the pieces in the table: int32 [tokens] for each, -1 for text, else the row to take."""
        table: Places = self._table.places[part]
        needed = {media.key: media for piece in pieces for media in piece.media}
        geometry = self._processor.geometry
        batches: dict[int, list[tuple[Media, np.ndarray]]] = {}
        for key, media in needed.items():
            if table.find(key) is not None:
                self._counters.encode_hits += 1
                continue
            places = table.reserve(key, media.tokens, needed.keys())
            length = row_patches(media.grid, geometry)
            batches.setdefault(length, []).append((media, places))
            self._counters.encoded += 1
        for length, images in batches.items():
            rows = self.shapes.images(length)
            for first in range(0, len(images), rows):
                self._ask(part, Call("encode", length, self._vision(images[first : first + rows], length)))
        index = []
        for piece in pieces:
            places = np.full(len(piece.tokens), -1, np.int32)
            if piece.media:
                spots = np.isin(piece.tokens, self._processor.placeholder_tokens)
                places[spots] = np.concatenate([table.find(media.key) for media in piece.media])
            index.append(places)
        return index

    def _vision(self, images: list[tuple[Media, np.ndarray]], length: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The load of an `encode`: images that take rows of one length, and where their embeddings go in the table."""
        geometry, rows = self._processor.geometry, self.shapes.images(length)
        places = np.full(rows * length // geometry.merge_size**2, self._table.places[0].size, np.int32)
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
