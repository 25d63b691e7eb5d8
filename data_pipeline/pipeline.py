"""Stored records as the batches that a trainer reads: mixed, shuffled, split into shards, rendered, resumable.

`get_state()` of a loader gives what a checkpoint stores; after `set_state()` come exactly the batches that would have
come next, however many processes then read them; see `batch_loader`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipeline.batch_loader import BatchLoader, LoaderSettings, Unreadable
from data_pipeline.draft import Draft
from data_pipeline.exchange.table_source import TableSource, open_records
from data_pipeline.reader import QueryReader, RecordError, TrajectoryReader
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Processor, Rendered
from pixel_reasoner_jax.processing.chat import content_items
from pixel_reasoner_jax.query import PASS_RATE
from pixel_reasoner_jax.trajectory import Source, Trajectory

DatasetMixture = str | Path | Sequence[tuple[str | Path, float]]
"""The folder of a data set or the file of a table, or several as (path, weight).

Of several, records are drawn in proportion to the weights.
"""

EVERY_RATE = (0.0, 1.0)
"""The range of pass rates that leaves no query out."""


@dataclasses.dataclass(frozen=True)
class RecordOrder:
    """Which records are read, and in which order.

    Attributes:
      seed: of the shuffle, in which every epoch has another order.
      shards: the numbers of the shards to read, from 0 to `shard_count` - 1.
      shard_count: into how many shards the records are split, once shuffled; no record is in two of them.
      epochs: how many; None repeats without end. An epoch of a mixture ends with that of its first data set.
      shuffle: False takes the records of a data set in its own order, as for a curriculum.
    """

    seed: int = 0
    shards: Sequence[int] = (0,)
    shard_count: int = 1
    epochs: int | None = None
    shuffle: bool = True


_DEFAULT_ORDER, _DEFAULT_LOADER, _DEFAULT_READER = RecordOrder(), LoaderSettings(), QueryReader()


def trajectory_batches(
    data: DatasetMixture,
    processor: Processor,
    batch_size: int,
    *,
    order: RecordOrder = _DEFAULT_ORDER,
    settings: LoaderSettings = _DEFAULT_LOADER,
    cache_bytes: int = 2**29,
    row_length: int | None = None,
    held_out_share: float = 0.0,
) -> BatchLoader:
    """Batches of rendered trajectories for instruction tuning.

    A trajectory that is not valid (`reader.TrajectoryReader`) counts as unreadable.

    Args:
      data: a data set or table of trajectories, or several; see `DatasetMixture`.
      processor: renders them to tokens.
      batch_size: trajectories of each shard in a batch; what is left at the end is dropped.
      order: see `RecordOrder`.
      settings: see `LoaderSettings`.
      cache_bytes: memory for rendered trajectories, so that a small data set is decoded and resized only once; the
        worker processes share it.
      row_length: the most tokens of a trajectory, None for no limit.
      held_out_share: of the records of each data set, which are left out; see `held_out`.

    Returns:
      An iterator of dicts from the number of a shard to a list of `Trajectory`.

    Raises:
      RecordError: a data set is missing or not of trajectories.
      UserError: a data set has fewer records than there are shards.
    """
    cache = cache_bytes // max(settings.workers, 1)
    reader = TrajectoryReader(functools.partial(render_trajectory, processor=processor), row_length)
    datasets = []
    for number, (path, _) in enumerate(_weighted(data)):
        source = open_records(path, "trajectory")
        chosen: Sequence[int] = range(len(source))
        if held_out_share:
            chosen = np.setdiff1d(chosen, held_out(len(source), held_out_share, order.seed + number))
        datasets.append((source, ReadSource(source, reader, cache), chosen))
    return _loader(data, datasets, batch_size, order, settings)


def query_batches(
    data: DatasetMixture,
    batch_size: int,
    *,
    order: RecordOrder = _DEFAULT_ORDER,
    settings: LoaderSettings = _DEFAULT_LOADER,
    pass_rates: tuple[float, float] = EVERY_RATE,
    reader: QueryReader = _DEFAULT_READER,
) -> BatchLoader:
    """Batches of queries for reinforcement learning; arguments and errors as of `trajectory_batches`.

    A query that is not valid counts as unreadable instead of ending a rollout.

    Args:
      pass_rates: (least, most); a query that has a `pass_rate` outside of them is left out, and is in no epoch.
      reader: decides what is valid, and decodes all media for that.
    """
    datasets = []
    for path, _ in _weighted(data):
        source = open_records(path, "query", unique=True)
        datasets.append((source, ReadSource(source, reader), _wanted(path, pass_rates)))
    return _loader(data, datasets, batch_size, order, settings)


def record_count(
    data: DatasetMixture, pass_rates: tuple[float, float] = EVERY_RATE, held_out_share: float = 0.0
) -> int:
    """The number of records in an epoch of all data sets together.

    Args:
      data: see `DatasetMixture`.
      pass_rates: see `query_batches`.
      held_out_share: see `trajectory_batches`.
    """
    if tuple(pass_rates) == EVERY_RATE:
        counts = [len(open_records(path)) for path, _ in _weighted(data)]
        return sum(count - round(count * held_out_share) for count in counts)
    return sum(len(_wanted(path, pass_rates)) for path, _ in _weighted(data))


def held_out(count: int, share: float, seed: int) -> np.ndarray:
    """The numbers of a share of `count` records, drawn for the seed, ascending: measured on, and not trained on."""
    return np.sort(np.random.default_rng((seed, count)).permutation(count)[: round(count * share)])


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
        policy_version=draft.policy_version,
    )


class ReadSource:
    """The records of a source as a reader gives them, the first ones kept in memory.

    Args:
      records: a `RecordSource`, or another sequence with its `location` that raises `RecordError` for what it cannot
        read.
      reader: a `QueryReader` or `TrajectoryReader`.
      cache_bytes: how much memory the trajectories that are kept may take; this changes the speed, nothing else.

    Raises:
      RecordError: by indexing, if a record cannot be read or is not valid; the message says where it is stored, its id
        if it has one, and the reason.
    """

    def __init__(
        self, records: RecordSource | TableSource, reader: QueryReader | TrajectoryReader, cache_bytes: int = 0
    ):
        self._records, self._reader = records, reader
        self._free_bytes = cache_bytes
        self._cache: dict[int, Trajectory] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        record = self._cache.get(index)
        if record is None:
            record = self._read(index)
            if self._free_bytes and (size := _cached_bytes(record)) <= self._free_bytes:
                self._free_bytes -= size
                self._cache[index] = record
        return record

    def _read(self, index: int) -> Any:
        record = self._records[index]
        try:
            return self._reader(record)
        except RecordError as error:
            raise RecordError(f"{self._records.location(index)}: {error}") from error

    def __repr__(self) -> str:
        return f"ReadSource({self._records!r})"


def _cached_bytes(trajectory: Trajectory) -> int:
    """The memory that a cached trajectory takes: its arrays, and the encoded files in its messages."""
    arrays = (trajectory.tokens, trajectory.source, trajectory.train, *(media.pixels for media in trajectory.media))
    shown = [item[kind] for message in trajectory.messages for kind, item in content_items(message)]
    files = [file for one in shown for file in (one if isinstance(one, list) else [one])]
    return sum(array.nbytes for array in arrays) + sum(map(len, files))


def _weighted(data: DatasetMixture) -> Sequence[tuple[str | Path, float]]:
    return [(data, 1.0)] if isinstance(data, str | Path) else data


def _wanted(path: str | Path, pass_rates: tuple[float, float]) -> Sequence[int]:
    """The numbers of the queries of a data set whose pass rate is within a range, or not known; no medium is decoded.

    Raises:
      RecordError: there are none.
    """
    source = open_records(path, "query")
    if tuple(pass_rates) == EVERY_RATE:
        return range(len(source))
    return _within(str(path), source.digest, tuple(pass_rates))


@functools.lru_cache(maxsize=32)
def _within(path: str, digest: str, pass_rates: tuple[float, float]) -> np.ndarray:
    """See `_wanted`; `digest` tells data apart that were written to one folder one after the other.

    Several ask in a run, and all records are read for the answer.
    """
    source, (least, most) = open_records(path, "query"), pass_rates
    rates = [_pass_rate(source, index) for index in range(len(source))]
    wanted = np.array([index for index, rate in enumerate(rates) if rate is None or least <= rate <= most], np.int64)
    if not len(wanted):
        raise RecordError(f"{path}: no query has a {PASS_RATE} from {least:g} to {most:g}: widen data.pass_rates")
    return wanted


def _pass_rate(source: RecordSource | TableSource, index: int) -> float | None:
    """The stored pass rate of a query; None if there is none, or one that the reader will refuse."""
    try:
        rate = source[index].get(PASS_RATE)
    except RecordError:
        return None
    return rate if isinstance(rate, int | float) else None


def _loader(
    data: DatasetMixture,
    datasets: Sequence[tuple[RecordSource, ReadSource, Sequence[int]]],
    batch_size: int,
    order: RecordOrder,
    settings: LoaderSettings,
) -> BatchLoader:
    """Reads the data sets: each as it is stored, as it is read, and the numbers of its records that are."""
    weights = [weight for _, weight in _weighted(data)]
    orders = {}
    for shard in order.shards:
        read = [
            _order(source, chosen, order, number, shard).map(functools.partial(_read, records))
            for number, (source, records, chosen) in enumerate(datasets)
        ]
        orders[shard] = read[0] if len(read) == 1 else grain.MapDataset.mix(read, weights)
    return BatchLoader(orders, batch_size, settings, sum(len(chosen) for _, _, chosen in datasets))


def _order(
    source: RecordSource, chosen: Sequence[int], order: RecordOrder, number: int, shard: int
) -> grain.MapDataset:
    """The indices of one shard's records of data set `number`: every `shard_count`-th of the `chosen` ones."""
    count = order.shard_count
    if not 0 <= shard < count:
        raise ValueError(f"shard {shard} of {count} does not exist")
    if len(chosen) < count:
        raise UserError(f"{source!r} has {len(chosen)} records to read, too few for {count} shards")
    # The epochs are joined before they are split, so that none loses the records that do not divide evenly.
    epoch = grain.MapDataset.range(len(chosen))
    epochs = (epoch.seed(order.seed + number).shuffle() if order.shuffle else epoch).repeat(order.epochs)
    # Every shard takes as many records: at the very end, none has a batch that the others lack.
    even = len(epochs) // count * count
    return epochs[:even][shard::count].map(functools.partial(operator.getitem, chosen))


def _read(records: ReadSource, index: int) -> Any:
    try:
        return records[int(index)]
    except RecordError as error:
        return Unreadable(str(error))
