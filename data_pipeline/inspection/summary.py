"""The figures of a data set: counts, lengths, operations, image sizes."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline.draft import Draft
from data_pipeline.exchange.table_source import TableSource
from data_pipeline.inspection.loss_labels import LossLabel, labeled_items
from data_pipeline.pipeline import render_trajectory
from data_pipeline.reader import RecordError, TrajectoryReader, check_form
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.processing import MediaError, Processor
from pixel_reasoner_jax.processing.decoding import upright_size


def summarize(source: RecordSource | TableSource, processor: Processor | None = None) -> dict[str, Any]:
    """Reads all records of a data set or a table and counts what they hold.

    Args:
      source: the data set or the table.
      processor: counts tokens, for which it decodes and resizes every image; None counts characters only.

    Returns:
      Plain JSON values. For both kinds of records: `path`, `kind`, `digest`, `count`, `bytes`, of a data set also
      `schema` and `shards`; `images` (by kind of image: their count, and the spread of upright `width` and `height` in
      pixels), `videos` and `unreadable` (a text for each record that is not valid, or image that cannot be read). For
      trajectories also: `types`, `operations` (calls by name, and how many failed), `calls` (number of calls to number
      of trajectories), `masked` (texts of the assistant without loss), `masked_trajectories` (trajectories that have
      one), and `lengths` (spreads in turns, characters and tokens). For queries also: `several_answers`. A spread is
      min, median, mean and max.
    """
    counts = _Counts(processor)
    with Progress("reading", len(source)) as progress:
        for index in range(len(source)):
            try:
                record = source[index]
            except RecordError as error:
                counts.unreadable.append(str(error))
            else:
                counts.add(record, source.location(index))
            progress.update(index + 1)
    return {
        "path": str(source.path),
        "kind": source.kind,
        **source.describe(),
        **(counts.of_trajectories() if source.kind == "trajectory" else {"several_answers": counts.several_answers}),
        "images": counts.images(),
        "videos": counts.videos,
        "unreadable": counts.unreadable,
    }


class _Counts:
    """Counters over the records so far; of each record and image a number or two is kept."""

    def __init__(self, processor: Processor | None):
        self.unreadable: list[str] = []
        self.videos = self.several_answers = self._masked = self._with_masked = self._failed = 0
        self._types: Counter[str] = Counter()
        self._operations: Counter[str] = Counter()
        self._calls: Counter[int] = Counter()
        self._lengths: dict[str, list[int]] = defaultdict(list)
        self._sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._processor = processor

    def add(self, record: Draft | Mapping[str, Any], location: str) -> None:
        try:
            check_form("trajectory" if isinstance(record, Draft) else "query", record)
        except RecordError as error:
            self.unreadable.append(f"{location}: {error}")
            return
        if isinstance(record, Draft):
            self._add_trajectory(record, location)
            items = [item for message in record.messages for item in message["content"]]
        else:
            self.several_answers += isinstance(record.get("answer"), list)
            items = [{"type": "image", "image": image} for image in record.get("images", ())]
            items += [{"type": "video", "video": record["video"]}] if "video" in record else []
        for kind, source in self._pictures(items):
            try:
                size = upright_size(source)
            except MediaError as error:
                self.unreadable.append(f"{location}: an image cannot be read: {error}")
            else:
                self._sizes[kind].append(size)

    def _add_trajectory(self, draft: Draft, location: str) -> None:
        self._types[draft.kind] += 1
        self._operations.update(operation.name or "unreadable" for operation in draft.operations)
        self._failed += sum(not operation.succeeded for operation in draft.operations)
        self._calls[len(draft.operations)] += 1
        parts = [item for message in draft.messages for item in labeled_items(message) if item.text]
        masked = sum(item.label == LossLabel.MASKED for item in parts)
        self._masked += masked
        self._with_masked += masked > 0
        self._lengths["turns"].append(sum(message["role"] == "assistant" for message in draft.messages))
        self._lengths["characters"].append(sum(len(item.text) for item in parts))
        self._lengths["trained_characters"].append(sum(len(s.text) for s in parts if s.label == LossLabel.TRAINED))
        if self._processor is not None:
            try:
                trajectory = TrajectoryReader(functools.partial(render_trajectory, processor=self._processor))(draft)
            except RecordError as error:
                self.unreadable.append(f"{location}: {error}")
                return
            self._lengths["tokens"].append(len(trajectory.tokens))
            self._lengths["trained_tokens"].append(int(trajectory.train.sum()))

    def _pictures(self, items: list[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
        for item in items:
            if item["type"] == "image":
                yield item.get("kind") or "image", item["image"]
            elif item["type"] == "video":
                self.videos += 1
                frames = item["video"] if isinstance(item["video"], list) else ()
                yield from (("video frame", frame) for frame in frames)

    def of_trajectories(self) -> dict[str, Any]:
        return {
            "types": dict(sorted(self._types.items())),
            "operations": {"by_name": dict(sorted(self._operations.items())), "failed": self._failed},
            "calls": {str(number): count for number, count in sorted(self._calls.items())},
            "masked": self._masked,
            "masked_trajectories": self._with_masked,
            "lengths": {name: _spread(values) for name, values in self._lengths.items()},
        }

    def images(self) -> dict[str, Any]:
        return {
            kind: {
                "count": len(sizes),
                "width": _spread([w for w, _ in sizes]),
                "height": _spread([h for _, h in sizes]),
            }
            for kind, sizes in sorted(self._sizes.items())
        }


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {
        "min": min(values),
        "median": float(np.median(values)),
        "mean": float(np.mean(values)),
        "max": max(values),
    }
