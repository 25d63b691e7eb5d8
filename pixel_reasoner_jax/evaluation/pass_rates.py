"""The share of right responses to each item of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pixel_reasoner_jax.evaluation.records import read_records
from pixel_reasoner_jax.evaluation.tally import RIGHT


def pass_rates(directory: str | os.PathLike, benchmark: str, mode: str, ids: Sequence[str]) -> dict[int, float]:
    """The pass rates of a benchmark's items, by their number; of items without a scored response there is none.

    Args:
      directory: of the evaluation.
      benchmark, mode: whose records count.
      ids: of the items, in order.
    """
    right: dict[str, list[bool]] = {}
    for record in read_records(directory):
        if (record.benchmark, record.mode) == (benchmark, mode) and not record.unreadable and record.score is not None:
            right.setdefault(record.id, []).append(record.score >= RIGHT)
    return {number: sum(right[id]) / len(right[id]) for number, id in enumerate(ids) if id in right}
