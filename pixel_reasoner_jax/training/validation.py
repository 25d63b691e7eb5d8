"""The loss of held-out trajectories: the mean over all of their trained tokens, in all processes."""

from __future__ import annotations

import concurrent.futures
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipeline.exchange.table_source import open_records
from data_pipeline.pipeline import ReadSource, held_out, render_trajectory
from data_pipeline.reader import RecordError, TrajectoryReader, count_skipped
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.parallel import all_gather_json
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.training_run import TrainingRun

THREADS = 4  # that read trajectories
CACHE_BYTES = 2**28  # memory for rendered ones, so that few of them are decoded and resized only once


class Validation:
    """Computes the loss of some trajectories, each counted once however many processes there are.

    Args:
      training: the run.
      trainer: computes log-probabilities, forward only and without changing anything.
      numbers: (path, numbers of its records) for each data set, see `validation_records`.
      row_length: the most tokens of a trajectory.
      max_unreadable: see `reader.count_skipped`.
    """

    def __init__(
        self,
        training: TrainingRun,
        trainer: Trainer,
        numbers: list[tuple[str, list[int]]],
        row_length: int,
        max_unreadable: float,
    ):
        self._training, self._trainer, self._max_unreadable = training, trainer, max_unreadable
        reader = TrajectoryReader(functools.partial(render_trajectory, processor=training.processor), row_length)
        self._records = []
        for path, some in numbers:
            source = ReadSource(open_records(path, "trajectory"), reader, CACHE_BYTES // len(numbers))
            self._records += [(source, number) for number in some]

    def loss(self, params: Any, stopped: Callable[[], bool]) -> tuple[float | None, int] | None:
        """The mean negative log-probability of the trained tokens. All processes call this together.

        Args:
          params: of the model.
          stopped: asked before every part, in all processes together, whether to give up.

        Returns:
          The mean in nats, None if no token is trained, and the number of these tokens; None if it was stopped.

        Raises:
          RecordError: more of the trajectories cannot be used than may be.
        """
        shards = self._training.shards
        each = shards.share * shards.count  # as many at once as in an update
        sums, tokens, skipped = [], 0, 0
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            for begin in range(0, len(self._records), each):
                if stopped():
                    return None
                part = self._records[begin : begin + each]
                plans = {}
                for shard in shards.local:
                    read = []
                    for one in pool.map(_read, part[shard :: shards.count]):
                        if isinstance(one, RecordError):
                            skipped += 1
                            count_skipped(str(one), skipped, len(self._records), self._max_unreadable)
                        else:
                            read.append(Sequence.of(one))
                    plans[shard] = read
                agreed = self._training.agree_on_shapes(self._training.plan(plans))
                batches = agreed()
                for batch, scores in zip(batches, self._trainer.score(params, batches), strict=True):
                    mask = batch["target_mask"] > 0
                    sums.append(-float(scores["logprobs"][mask].astype(np.float64).sum()))
                    tokens += int(mask.sum())
        of_all = all_gather_json([math.fsum(sums), tokens])
        total = sum(count for _, count in of_all)
        return (math.fsum(one for one, _ in of_all) / total if total else None), total


def validation_records(config: Any, data: list[str]) -> list[tuple[str, list[int]]]:
    """Which records the validation loss is of: those of `evaluation.loss_on`, or those that training leaves out.

    At most `evaluation.queries`, evenly spread.

    Args:
      config: an SFT experiment.
      data: the data sets that are trained on.

    Returns:
      (path, numbers of its records) for each data set; none if no validation loss is asked for.

    Raises:
      RecordError: a data set is missing or not of trajectories.
      ConfigError: both kinds are asked for, or the share to hold out is no whole record.
    """
    if config.evaluation.loss_on and config.data.held_out:
        raise ConfigError(
            "config.evaluation.loss_on names trajectories, and config.data.held_out keeps others out of training: the"
            " loss is of one or the other, set one of them"
        )
    if config.evaluation.loss_on:
        path = config.evaluation.loss_on
        found = [(path, number) for number in range(len(open_records(path, "trajectory")))]
    else:
        found = [
            (path, int(number))
            for place, path in enumerate(data)
            for number in held_out(len(open_records(path, "trajectory")), config.data.held_out, config.seed + place)
        ]
    if not found and (config.evaluation.loss_on or config.data.held_out):
        raise ConfigError(
            f"config.evaluation.loss_on = {config.evaluation.loss_on!r} with config.data.held_out ="
            f" {config.data.held_out} leaves no trajectory whose loss could be computed: name more, or hold out more"
        )
    chosen = [found[index] for index in spread(len(found), config.evaluation.queries)]
    return [
        (path, [number for owner, number in chosen if owner == path]) for path in dict.fromkeys(p for p, _ in chosen)
    ]


def spread(count: int, most: int) -> list[int]:
    """At most so many of `count` indices, evenly spread, so that data in the order of their kinds give some of each."""
    return list(range(count)) if count <= most else [index * count // most for index in range(most)]


def _read(record: tuple[ReadSource, int]) -> Any:
    source, number = record
    try:
        return source[number]
    except RecordError as error:
        return error
