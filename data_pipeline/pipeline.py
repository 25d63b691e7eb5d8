"""Stored records as the batches a trainer reads: shuffled, sharded, rendered in threads, resumable.

The iterators are Grain's: `get_state()` gives what a checkpoint stores, and `set_state()` goes on from there with
exactly the batches that would have come.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipeline.records import RecordError, RecordSource
from data_pipeline.synthesis import Draft
from pixel_reasoner_jax.processing import Processor, Rendered
from pixel_reasoner_jax.trajectory import Source, Trajectory


def trajectory_batches(
    directory: str | Path,
    processor: Processor,
    batch_size: int,
    *,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    epochs: int | None = None,
    threads: int = 2,
    prefetch: int | None = None,
    cache_bytes: int = 2**29,
) -> grain.IterDataset[list[Trajectory]]:
    """Batches of rendered trajectories for instruction tuning.

    Args:
      directory: a data set of trajectories; see `records`.
      processor: renders them.
      batch_size: trajectories in a batch of this shard; the last, smaller one is dropped.
      seed: of the order, which is another in every epoch.
      shard: (index, count); each reads its own records of the common order.
      epochs: None for no end.
      threads: that read and render.
      prefetch: trajectories rendered ahead; two batches unless given.
      cache_bytes: of memory for rendered trajectories, so that a small data set is decoded and resized only once.
    """
    source = RenderedSource(RecordSource(directory, "trajectory"), processor, cache_bytes)
    return _batches(_ordered(source, seed, shard, epochs), batch_size, threads, prefetch)


def query_batches(
    directory: str | Path,
    batch_size: int,
    *,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    epochs: int | None = None,
    threads: int = 2,
    prefetch: int | None = None,
) -> grain.IterDataset[list[dict[str, Any]]]:
    """Batches of queries for reinforcement learning; arguments as in `trajectory_batches`."""
    return _batches(_ordered(RecordSource(directory, "query"), seed, shard, epochs), batch_size, threads, prefetch)


def render_trajectory(draft: Draft, processor: Processor) -> Trajectory:
    """A stored trajectory with its tokens and masks.

    Nothing in it was sampled: `logprobs` is None and `source` tells the assistant's turns from prompt and observations.
    """
    messages = draft.messages
    first = next((number for number, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
    pieces = [processor.render(messages[:first])]
    sources = [np.full(len(pieces[0].tokens), Source.PROMPT, np.int8)]
    for number, message in enumerate(messages[first:], start=first):
        pieces.append(processor.render_message(message, number))
        source = Source.SAMPLED if message["role"] == "assistant" else Source.OBSERVATION
        sources.append(np.full(len(pieces[-1].tokens), source, np.int8))
    return _trajectory(draft, pieces, np.concatenate(sources))


def _trajectory(draft: Draft, pieces: list[Rendered], source: np.ndarray) -> Trajectory:
    return Trajectory(
        query_id=draft.query_id,
        question=draft.question,
        reference=draft.reference,
        messages=draft.messages,
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        source=source,
        train=np.concatenate([piece.train for piece in pieces]),
        media=[media for piece in pieces for media in piece.media],
        operations=list(draft.operations),
    )


class RenderedSource:
    """Stored trajectories as `Trajectory` objects; a record that cannot be rendered is named.

    The first ones rendered stay in memory, up to `cache_bytes`. Which ones are held changes the speed, nothing else.
    """

    def __init__(self, records: RecordSource, processor: Processor, cache_bytes: int = 0):
        self._records, self._processor = records, processor
        self._room = cache_bytes
        self._held: dict[int, Trajectory] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Trajectory:
        trajectory = self._held.get(index)
        if trajectory is None:
            trajectory = self._render(index)
            size = sum(media.pixels.nbytes for media in trajectory.media)
            if size <= self._room:
                self._room -= size
                self._held[index] = trajectory
        return trajectory

    def _render(self, index: int) -> Trajectory:
        draft = self._records[index]
        try:
            return render_trajectory(draft, self._processor)
        except ValueError as error:
            raise RecordError(f"{self._records.place(index)}: cannot be rendered: {error}") from error

    def __repr__(self) -> str:
        return f"RenderedSource({self._records!r})"


def _ordered(source: Sequence[Any], seed: int, shard: tuple[int, int], epochs: int | None) -> grain.MapDataset:
    """The records of a shard, in an order that all shards share."""
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count} does not exist")
    if len(source) < count:
        raise ValueError(f"{source!r} has {len(source)} records, too few for {count} shards")
    # Every shard takes as many records, or one would wait for the others at the end of an epoch.
    whole = len(source) // count * count
    return grain.MapDataset.source(source).seed(seed).shuffle()[:whole][index::count].repeat(epochs)


def _batches(records: grain.MapDataset, size: int, threads: int, prefetch: int | None) -> grain.IterDataset:
    ahead = 2 * size if prefetch is None else prefetch
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads))
    return records.to_iter_dataset(options).batch(size, drop_remainder=True, batch_fn=list)
