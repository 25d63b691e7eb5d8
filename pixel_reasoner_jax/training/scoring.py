"""The trainer's own log-probabilities of sequences, put where the tokens are."""

from __future__ import annotations

from typing import Any

import numpy as np

from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches


def trainer_logprobs(trainer: Trainer, params: Any, agreed: AgreedBatches) -> list[tuple[Sequence, np.ndarray]]:
    """Scores the sequences of some batches. All processes call this together.

    Args:
      trainer, params: see `Trainer.score`.
      agreed: the batches.

    Returns:
      Each sequence of this process with float32 [tokens], the log-probability of every trained token; 0 elsewhere.
    """
    scores = trainer.score(params, agreed())
    placed = []
    for of_shard in agreed.unpack([one["logprobs"] for one in scores]).values():
        for sequence, values in of_shard:
            logprobs = np.zeros(len(sequence.tokens), np.float32)
            logprobs[1:][sequence.train[1:]] = values
            placed.append((sequence, logprobs))
    return placed
