"""Stored records as the batches a trainer reads: mixed, shuffled, dealt out to shards, rendered, resumable.

`get_state()` gives what a checkpoint stores, and `set_state()` goes on from there with exactly the batches that would
have come, whatever then reads them; see `stream`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipeline.draft import Draft
from data_pipeline.records import RecordError, RecordSource, read_description
from data_pipeline.stream import Reading, Stream, Unreadable, Unwanted
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Processor, Rendered
from pixel_reasoner_jax.processing.decoding import VideoFile, decode_image
from pixel_reasoner_jax.trajectory import Source, Trajectory

Data = str | Path | Sequence[tuple[str | Path, float]]
"""A data set, or several with their weights: of how many records of the mixture each has one."""

PASS_RATE = "pass_rate"
"""Key of a query: the share of right responses to it that somebody measured."""


@dataclasses.dataclass(frozen=True)
class Order:
    """Which records come, and when.

    Attributes:
      seed: of the order, which is another in every epoch.
      shards: the numbers of those to read, of `count`; each has its own records of the common order.
      epochs: None for no end. An epoch of a mixture ends with that of its first data set.
    """

    seed: int = 0
    shards: Sequence[int] = (0,)
    count: int = 1
    epochs: int | None = None


_ORDER, _READING = Order(), Reading()


def trajectory_batches(
    data: Data,
    processor: Processor,
    batch_size: int,
    *,
    order: Order = _ORDER,
    reading: Reading = _READING,
    cache_bytes: int = 2**29,
) -> Stream:
    """Batches of rendered trajectories for instruction tuning.

    Args:
      data: of trajectories; see `records`.
      processor: renders them.
      batch_size: trajectories of a shard in a batch; the last, smaller one is dropped.
      order: see `Order`.
      reading: see `Reading`.
      cache_bytes: of memory for rendered trajectories, so that a small data set is decoded and resized only once;
        shared by the worker processes.

    Returns:
      An iterator of dicts from the shard to a list of `Trajectory`.
    """
    cache = cache_bytes // max(reading.workers, 1)
    sources = [RenderedSource(source, processor, cache) for source in _sources(data, "trajectory")]
    return _stream(data, sources, _read, batch_size, order, reading)


def query_batches(
    data: Data,
    batch_size: int,
    *,
    order: Order = _ORDER,
    reading: Reading = _READING,
    pass_rates: tuple[float, float] = (0.0, 1.0),
) -> Stream:
    """Batches of queries for reinforcement learning, whose media can be decoded; arguments as of `trajectory_batches`.

    Args:
      pass_rates: (least, most); a query whose `pass_rate` is known and not within is left out.
    """
    wanted = functools.partial(_read_query, pass_rates=pass_rates)
    sources = _sources(data, "query")
    return _stream(data, sources, wanted, batch_size, order, reading)


def record_count(data: Data) -> int:
    """Records of all data sets together."""
    return sum(read_description(path)["count"] for path, _ in _weighted(data))


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
            size = _held_bytes(trajectory)
            if size <= self._room:
                self._room -= size
                self._held[index] = trajectory
        return trajectory

    def _render(self, index: int) -> Trajectory:
        draft = self._records[index]
        try:
            return render_trajectory(draft, self._processor)
        except (ValueError, TypeError, KeyError) as error:  # a conversation that somebody else wrote can be anything
            raise RecordError(
                f"{self._records.place(index)}: cannot be rendered: {type(error).__name__}: {error}"
            ) from error

    def __repr__(self) -> str:
        return f"RenderedSource({self._records!r})"


def _held_bytes(trajectory: Trajectory) -> int:
    """Of memory: arrays, and what the messages show, which are the files as they are stored."""
    arrays = (trajectory.tokens, trajectory.source, trajectory.train, *(media.pixels for media in trajectory.media))
    shown = [item[item["type"]] for message in trajectory.messages for item in message["content"]]
    files = [file for one in shown for file in (one if isinstance(one, list) else [one])]
    return sum(array.nbytes for array in arrays) + sum(map(len, files))


def _weighted(data: Data) -> Sequence[tuple[str | Path, float]]:
    return [(data, 1.0)] if isinstance(data, str | Path) else data


def _sources(data: Data, kind: str) -> list[RecordSource]:
    return [RecordSource(path, kind) for path, _ in _weighted(data)]


def _stream(
    data: Data,
    sources: Sequence[Any],
    read: Callable[[Any, int], Any],
    batch_size: int,
    order: Order,
    reading: Reading,
) -> Stream:
    weights = [weight for _, weight in _weighted(data)]
    orders = {}
    for shard in order.shards:
        own = [
            _indices(source, order, number, shard).map(functools.partial(read, source))
            for number, source in enumerate(sources)
        ]
        orders[shard] = own[0] if len(own) == 1 else grain.MapDataset.mix(own, weights)
    return Stream(orders, batch_size, reading, sum(map(len, sources)))


def _indices(source: Sequence[Any], order: Order, number: int, shard: int) -> grain.MapDataset:
    """The indices of a shard's records of data set `number`, in an order that all shards share."""
    count = order.count
    if not 0 <= shard < count:
        raise ValueError(f"shard {shard} of {count} does not exist")
    if len(source) < count:
        raise UserError(f"{source!r} has {len(source)} records, too few for {count} shards")
    # Epochs follow each other before they are dealt out, so that none loses the records that do not divide evenly.
    epochs = grain.MapDataset.range(len(source)).seed(order.seed + number).shuffle().repeat(order.epochs)
    # Every shard takes as many records, or one would wait for the others at the very end.
    whole = len(epochs) // count * count
    return epochs[:whole][shard::count]


def _read(source: Sequence[Any], index: int) -> Any:
    try:
        return source[index]
    except RecordError as error:
        return Unreadable(str(error))


def _read_query(source: Sequence[Any], index: int, pass_rates: tuple[float, float]) -> Any:
    query = _read(source, index)
    if isinstance(query, Unreadable):
        return query
    rate = query.pop(PASS_RATE, None)
    if not isinstance(rate, int | float | None):
        return Unreadable(f"{source.place(index)}: its {PASS_RATE} is {rate!r:.80}, not a number")
    least, most = pass_rates
    if rate is not None and not least <= rate <= most:
        return Unwanted()  # before its media are decoded
    try:
        _check_media(query)
    except ValueError as error:
        return Unreadable(f"{source.place(index)}: {error}")
    return query


def _check_media(query: dict[str, Any]) -> None:
    """Decodes what a rollout will: there a broken file would end the run. Of a video file, its first frame."""
    video = query.get("video")
    for image in (*query.get("images", ()), *(video if isinstance(video, list) else ())):
        decode_image(image)
    if isinstance(video, bytes | str):
        VideoFile(video)
