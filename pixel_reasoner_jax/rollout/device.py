"""Calls of the engine with declared shapes: what the scheduler wants in its slots, packed, padded and in order."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from pixel_reasoner_jax.processing import Media, media_patches, vision_layout
from pixel_reasoner_jax.rollout.embeddings import EmbeddingTable
from pixel_reasoner_jax.rollout.engine import Addition, Decoded, Forks, Slots
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.sampling import Drawing, SamplingSettings, sample_keys
from pixel_reasoner_jax.rollout.shapes import CHUNK, Shapes, row_patches

if TYPE_CHECKING:
    from pixel_reasoner_jax.rollout.policy import Policy

PATIENCE = 16  # a chunk of decoding ends early when one in so many of its slots has ended its turn


@dataclasses.dataclass
class Piece:
    """Tokens to append to a slot that holds `start` of them.

    Attributes:
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

    Args:
      policy: whose parameters, as they are now, serve all of the rollout.
      sampling: of all turns.
      seed: of the rollout.

    Attributes:
      shapes: declared for it; None before `grow`.
    """

    def __init__(self, policy: Policy, sampling: SamplingSettings, seed: int):
        self._policy, self._params, self._version = policy, policy.params, policy.version
        self._engine, self._processor, self._counters = policy.engine, policy.processor, policy.counters
        self._sampling, self._seed = sampling, seed
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
        """Makes empty slots, at least so many of at least so many tokens; what they held is gone."""
        self._slots = self._table = None  # before new ones are made, or both would be in memory
        self.shapes = self._policy.declare(slots, length)
        self._table = self._policy.table(self._params, self._version)
        with self._busy():
            self._slots = self._engine.empty(
                self._params, self.shapes.slots, self.shapes.length, self._policy.cache_dtype, self._sampling.penalized
            )

    def close(self) -> None:
        """Lets go of all memory on the device, but for the table, which is the policy's."""
        self._slots = self._table = self._params = None

    def ready(self) -> bool:
        """Whether all that was asked for is done."""
        return self._slots.hidden.is_ready()

    def holds(self, media: Media) -> bool:
        """Whether the embeddings of an image are in the table."""
        table = self._table
        return table is not None and media.key in table

    def decode(self, episodes: Mapping[int, Episode], most: int) -> Decoded:
        """Samples a chunk of at most so many tokens for the episodes, by slot, and waits for it."""
        settings, budget = [self._sampling] * self.shapes.slots, [0] * self.shapes.slots
        for slot, episode in episodes.items():
            settings[slot], budget[slot] = episode.settings, episode.turn_room
        with self._busy():
            self._slots, decoded = self._engine.decode(
                self._params,
                self._slots,
                Drawing.of(settings, budget),
                self._forbidden,
                np.int32(most),
                np.int32(max(1, len(episodes) // PATIENCE)),
                steps=self._policy.decode_steps,
                filtered=self._sampling.filtered,
            )
            decoded = jax.device_get(decoded)
        self._counters.decode_calls += 1
        self._counters.decode_steps += int(decoded.counts.max())
        return decoded

    def fork(self, forks: list[tuple[int, int, Episode]]) -> None:
        """Begins responses: (slot that holds the prompt, slot of the response, its episode) each."""
        while forks:
            size = next((size for size in self.shapes.forks if size >= len(forks)), self.shapes.forks[-1])
            some, forks = forks[:size], forks[size:]
            padding = size - len(some)
            source, target, episodes = zip(*some, *[(0, self.shapes.slots, some[0][2])] * padding, strict=True)
            prompts = [episode.prompt for episode in episodes]
            keys = sample_keys(self._seed, [prompt.id for prompt in prompts], [one.sample for one in episodes])
            lengths, positions = zip(*[(len(p.rendered.tokens), p.next_position) for p in prompts], strict=True)
            columns = (np.array(column, np.int32) for column in (source, target, lengths, positions))
            seen = self._seen([prompt.rendered.tokens for prompt in prompts])
            with self._busy():
                self._slots = self._engine.fork(self._slots, Forks(*columns, keys, seen))

    def extend(self, pieces: list[Piece]) -> None:
        """Appends pieces to their slots, `CHUNK` tokens at a time, those of about one length together."""
        for some in self._that_fit(pieces):
            index = self._encode(some)
            for start in range(0, max(len(piece.tokens) for piece in some), CHUNK):
                batches: dict[int, list[int]] = {}
                for number, piece in enumerate(some):
                    if (left := len(piece.tokens) - start) > 0:
                        batches.setdefault(self.shapes.width(min(left, CHUNK)), []).append(number)
                for width, numbers in sorted(batches.items()):
                    rows = self.shapes.rows(width)
                    for first in range(0, len(numbers), rows):
                        chosen = [(some[number], index[number]) for number in numbers[first : first + rows]]
                        self._append(chosen, start, width, rows)

    def _append(self, pieces: list[tuple[Piece, np.ndarray]], start: int, width: int, rows: int) -> None:
        """One call of `extend`: the tokens from `start` on of pieces with their places in the table."""
        added = Addition.blank(rows, width, self.shapes.slots)
        histories = []
        for row, (piece, index) in enumerate(pieces):
            tokens = piece.tokens[start : start + width]
            count, end = len(tokens), start + len(tokens)
            added.slots[row], added.starts[row], added.counts[row] = piece.slot, piece.start + start, count
            added.tokens[row, :count], added.positions[:, row, :count] = tokens, piece.positions[:, start:end]
            added.vision_index[row, :count] = index[start:end]
            added.position[row], added.token_index[row] = piece.following, piece.episode.sampled
            added.ends_prompt[row] = piece.prompt and end == len(piece.tokens)
            histories.append(piece.episode)
            self._counters.prefilled += count
        self._counters.prefill_padding += rows * width - int(added.counts.sum())
        self._counters.extend_calls += 1
        histories = [episode.tokens() for episode in histories] if self._sampling.penalized else []
        seen = self._seen(histories + [np.zeros(0, np.int32)] * (rows - len(histories)))
        with self._busy():
            self._slots = self._engine.extend(self._params, self._slots, self._table.array, added._replace(seen=seen))

    def _seen(self, histories: Sequence[np.ndarray]) -> np.ndarray | None:
        """bool [histories, vocab]: the tokens of each; None without a repetition penalty."""
        if not self._sampling.penalized:
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
            more = {media.key: media.tokens for media in piece.media}
            if some and sum((held | more).values()) > self._table.size:
                yield some
                some, held = [], {}
            some.append(piece)
            held |= more
        if some:
            yield some

    def _encode(self, pieces: list[Piece]) -> list[np.ndarray]:
        """Has every image of the pieces in the table: int32 [tokens] for each, -1 for text, else the row to take."""
        needed = {media.key: media for piece in pieces for media in piece.media}
        geometry = self._processor.geometry
        batches: dict[int, list[tuple[Media, np.ndarray]]] = {}
        for key, media in needed.items():
            if self._table.find(key) is not None:
                self._counters.encode_hits += 1
                continue
            places = self._table.reserve(key, media.tokens, needed.keys())
            length = row_patches(media_patches(media, geometry), geometry)
            batches.setdefault(length, []).append((media, places))
            self._counters.encoded += 1
        for length, images in batches.items():
            rows = self.shapes.images(length)
            for first in range(0, len(images), rows):
                self._encode_rows(images[first : first + rows], rows, length)
        index = []
        for piece in pieces:
            places = np.full(len(piece.tokens), -1, np.int32)
            if piece.media:
                spots = np.isin(piece.tokens, self._processor.placeholder_tokens)
                places[spots] = np.concatenate([self._table.find(media.key) for media in piece.media])
            index.append(places)
        return index

    def _encode_rows(self, images: list[tuple[Media, np.ndarray]], rows: int, length: int) -> None:
        """One call of `encode`: images that take rows of one length, with their rows in the table."""
        geometry = self._processor.geometry
        places = np.full(rows * length // geometry.merge_size**2, self._table.size, np.int32)
        vision, local = vision_layout([media for media, _ in images], geometry, length, rows)
        for where, (_, reserved) in zip(local, images, strict=True):
            places[where] = reserved
        self._counters.encode_padding += rows * length - sum(math.prod(media.grid) for media, _ in images)
        with self._busy():
            self._table.array = self._engine.encode(self._params, self._table.array, vision, places)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._counters.device_seconds += time.perf_counter() - began
