"""Old log-probabilities of tokens that are trained on and were not sampled: by the policy that sampled the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.scoring import trainer_logprobs
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.training_run import TrainingRun

Place = tuple[int, int]


def with_logprobs(
    sequences: Mapping[Place, Sequence],
    shards: Mapping[Place, int],
    trainer: Trainer,
    params: Any,
    training: TrainingRun,
) -> dict[Place, Sequence]:
    """The sequences, those with given tokens with log-probabilities of these. All processes call this together.

    Args:
      sequences: by the place of their response, (query, sample).
      shards: the shard of each place.
      trainer, params: what scores them.
      training: plans and builds batches.
    """
    given = {place: sequence for place, sequence in sequences.items() if sequence.given is not None}
    of_shard: dict[int, list[Sequence]] = {shard: [] for shard in training.shards.local}
    for place, sequence in given.items():
        of_shard[shards[place]].append(sequence)
    agreed = training.agree_on_shapes(training.plan(of_shard))
    scored = {id(sequence): logprobs for sequence, logprobs in trainer_logprobs(trainer, params, agreed)}
    filled = {
        place: dataclasses.replace(sequence, logprobs=np.where(sequence.given, scored[id(sequence)], sequence.logprobs))
        for place, sequence in given.items()
    }
    return {**sequences, **filled}
