"""Stored records as the batches that a trainer reads: mixed, shuffled, split into shards, rendered, resumable.

`get_state()` of a loader gives what a checkpoint stores; after `set_state()` come exactly the batches that would have
come next, however many processes then read them; see `batch_loader`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipeline.batch_loader import BatchLoader, LoaderSettings, Unreadable, Unwanted
from data_pipeline.draft import Draft
from data_pipeline.exchange.table_source import TableSource, open_records
from data_pipeline.records import RecordError, RecordSource
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Processor, Rendered
from pixel_reasoner_jax.processing.decoding import VideoFile, decode_image
from pixel_reasoner_jax.trajectory import Source, Trajectory

DatasetMixture = str | Path | Sequence[tuple[str | Path, float]]
"""The folder of a data set or the file of a table, or several as (path, weight).

Of several, records are drawn in proportion to the weights.
"""

PASS_RATE = "pass_rate"
"""Key of a query: the share of right responses to it that was measured, from 0 to 1."""


@dataclasses.dataclass(frozen=True)
class RecordOrder:
    """Which records are read, and in which order.

    Attributes:
      seed: of the shuffle; every epoch has another order.
      shards: the numbers of the shards to read, from 0 to `shard_count` - 1.
      shard_count: into how many shards the shuffled records are split; no record is in two of them.
      epochs: how many; None repeats without end. An epoch of a mixture ends with that of its first data set.
    """

    seed: int = 0
    shards: Sequence[int] = (0,)
    shard_count: int = 1
    epochs: int | None = None


_DEFAULT_ORDER, _DEFAULT_LOADER = RecordOrder(), LoaderSettings()


def trajectory_batches(
    data: DatasetMixture,
    processor: Processor,
    batch_size: int,
    *,
    order: RecordOrder = _DEFAULT_ORDER,
    settings: LoaderSettings = _DEFAULT_LOADER,
    cache_bytes: int = 2**29,
) -> BatchLoader:
    """Batches of rendered trajectories for instruction tuning.

    Args:
      data: a data set or table of trajectories, or several; see `DatasetMixture`.
      processor: renders them to tokens.
      batch_size: trajectories of each shard in a batch; what is left at the end is dropped.
      order: see `RecordOrder`.
      settings: see `LoaderSettings`.
      cache_bytes: memory for rendered trajectories, so that a small data set is decoded and resized only once; the
        worker processes share it.

    Returns:
      An iterator of dicts from the number of a shard to a list of `Trajectory`.

    Raises:
      RecordError: a data set is missing or not of trajectories.
      UserError: a data set has fewer records than there are shards.
    """
    cache = cache_bytes // max(settings.workers, 1)
    sources = [RenderedSource(source, processor, cache) for source in _sources(data, "trajectory")]
    return _loader(data, sources, _read, batch_size, order, settings)


def query_batches(
    data: DatasetMixture,
    batch_size: int,
    *,
    order: RecordOrder = _DEFAULT_ORDER,
    settings: LoaderSettings = _DEFAULT_LOADER,
    pass_rates: tuple[float, float] = (0.0, 1.0),
) -> BatchLoader:
    """Batches of queries for reinforcement learning; arguments and errors as of `trajectory_batches`.

    Media are decoded once here: a query whose media are broken counts as unreadable instead of ending a rollout.

    Args:
      pass_rates: (least, most); a query that has a `pass_rate` outside of them is left out.
    """
    read = functools.partial(_read_query, pass_rates=pass_rates)
    sources = _sources(data, "query")
    return _loader(data, sources, read, batch_size, order, settings)


def record_count(data: DatasetMixture) -> int:
    """The number of records of all data sets together."""
    return sum(len(open_records(path)) for path, _ in _weighted(data))


def render_trajectory(draft: Draft, processor: Processor) -> Trajectory:
    """A stored trajectory with its tokens and masks.

    No token of it was sampled by a policy: `logprobs` is None. `source` still tells the assistant's turns (SAMPLED)
    from the prompt and the observations.
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
    """Stored trajectories as rendered `Trajectory` objects.

    The first ones that are rendered stay in memory, up to `cache_bytes`; this changes the speed, nothing else.

    Raises:
      RecordError: by indexing, if a record cannot be read or rendered; the message names it.
    """

    def __init__(self, records: RecordSource | TableSource, processor: Processor, cache_bytes: int = 0):
        self._records, self._processor = records, processor
        self._free_bytes = cache_bytes
        self._cache: dict[int, Trajectory] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Trajectory:
        trajectory = self._cache.get(index)
        if trajectory is None:
            trajectory = self._render(index)
            size = _cached_bytes(trajectory)
            if size <= self._free_bytes:
                self._free_bytes -= size
                self._cache[index] = trajectory
        return trajectory

    def _render(self, index: int) -> Trajectory:
        draft = self._records[index]
        try:
            return render_trajectory(draft, self._processor)
        except (ValueError, TypeError, KeyError) as error:  # a conversation that somebody else wrote can be anything
            raise RecordError(
                f"{self._records.location(index)}: cannot be rendered: {type(error).__name__}: {error}"
            ) from error

    def __repr__(self) -> str:
        return f"RenderedSource({self._records!r})"


def _cached_bytes(trajectory: Trajectory) -> int:
    """The memory that a cached trajectory takes: its arrays, and the encoded files in its messages."""
    arrays = (trajectory.tokens, trajectory.source, trajectory.train, *(media.pixels for media in trajectory.media))
    shown = [item[item["type"]] for message in trajectory.messages for item in message["content"]]
    files = [file for one in shown for file in (one if isinstance(one, list) else [one])]
    return sum(array.nbytes for array in arrays) + sum(map(len, files))


def _weighted(data: DatasetMixture) -> Sequence[tuple[str | Path, float]]:
    return [(data, 1.0)] if isinstance(data, str | Path) else data


def _sources(data: DatasetMixture, kind: str) -> list[RecordSource | TableSource]:
    return [open_records(path, kind) for path, _ in _weighted(data)]


def _loader(
    data: DatasetMixture,
    sources: Sequence[Any],
    read: Callable[[Any, int], Any],
    batch_size: int,
    order: RecordOrder,
    settings: LoaderSettings,
) -> BatchLoader:
    weights = [weight for _, weight in _weighted(data)]
    orders = {}
    for shard in order.shards:
        datasets = [
            _indices(source, order, number, shard).map(functools.partial(read, source))
            for number, source in enumerate(sources)
        ]
        orders[shard] = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, weights)
    return BatchLoader(orders, batch_size, settings, sum(map(len, sources)))


def _indices(source: Sequence[Any], order: RecordOrder, number: int, shard: int) -> grain.MapDataset:
    """The indices of one shard's records of data set `number`: every `shard_count`-th of the shuffled records."""
    count = order.shard_count
    if not 0 <= shard < count:
        raise ValueError(f"shard {shard} of {count} does not exist")
    if len(source) < count:
        raise UserError(f"{source!r} has {len(source)} records, too few for {count} shards")
    # The epochs are joined before they are split, so that none loses the records that do not divide evenly.
    epochs = grain.MapDataset.range(len(source)).seed(order.seed + number).shuffle().repeat(order.epochs)
    # Every shard takes as many records: at the very end, none has a batch that the others lack.
    even = len(epochs) // count * count
    return epochs[:even][shard::count]


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
        return Unreadable(f"{source.location(index)}: its {PASS_RATE} is {rate!r:.80}, not a number")
    least, most = pass_rates
    if rate is not None and not least <= rate <= most:
        return Unwanted()  # before its media are decoded
    try:
        _check_media(query)
    except ValueError as error:
        return Unreadable(f"{source.location(index)}: {error}")
    return query


def _check_media(query: dict[str, Any]) -> None:
    """Decodes the images, and of a video file the first frame: in a rollout, a broken file would end the run."""
    video = query.get("video")
    for image in (*query.get("images", ()), *(video if isinstance(video, list) else ())):
        decode_image(image)
    if isinstance(video, bytes | str):
        VideoFile(video)
