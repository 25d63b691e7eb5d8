"""Passes over an update's tokens, forward only: a sequence as asked or changed, under one of three policies.

A pass gives every trained token a log-probability and an entropy. Three are always there to ask for,

    present    under the policy as the update finds it      GSPO, covariances, tokens by their entropy
    old        under the policy that sampled                correction of the sampler's, KL-Cov
    reference  under the model of model.directory           KL term

and `config.passes` adds others under labels of one's own, such as one that masks images. A pass is made if a function
asks for it, by the attribute `passes`; see `update_details.passes_of`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config_values import POLICIES
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.named_parts import find_part
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training.contexts import CONTEXTS, Change, as_asked, changed
from pixel_reasoner_jax.training.packing import Batch, Sequence
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.training_run import TrainingRun
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches

Scores = dict[str, np.ndarray]
"""`logprobs` and `entropy` of the trained tokens of a sequence."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """A pass that was asked for.

    Attributes:
      label: of `config.passes`, or one of those that are always there.
      context: what is done to each sequence, see `contexts`.
      policy: one of `config_values.POLICIES`.
      strength: for the context.
    """

    label: str
    context: Callable[[Sequence, Change], Sequence]
    policy: str
    strength: float = 0.0

    @classmethod
    def of(cls, label: str, config: ConfigDict, asking: str) -> Pass:
        """The pass of a label.

        Raises:
          UserError: there is none; the message says who is `asking`.
        """
        if label in POLICIES:
            return cls(label, as_asked, label)
        if label not in config.passes:
            known = ", ".join(map(repr, (*POLICIES, *config.passes)))
            raise UserError(f"{asking} asks for the pass {label!r}: config.passes has none; there are {known}")
        settings = config.passes[label]
        return cls(label, find_part(settings.context, CONTEXTS, "context"), settings.policy, settings.strength)

    def change(self, sequences: Mapping[int, list[Sequence]], processor: Processor, seed: tuple[int, ...]):
        """The sequences of each shard as the pass shows them; each is an object of its own, unless it is as asked.

        Args:
          sequences: for each shard.
          processor: of the model.
          seed: of what the context draws.
        """
        if self.context is as_asked:
            return {shard: list(some) for shard, some in sequences.items()}
        change = Change(self.strength, processor, seed)
        name = f"the context of config.passes.{self.label}"
        return {
            shard: [dataclasses.replace(changed(one, self.context, change, name)) for one in some]
            for shard, some in sequences.items()
        }


def check_labels(config: ConfigDict) -> None:
    """Checks that no pass of one's own has the label of one that is always there.

    Raises:
      UserError: one has.
    """
    for label in POLICIES:
        if label in config.passes:
            raise UserError(f"config.passes.{label}: there is always a pass of this label; choose another one")


def agree(sequences: Mapping[int, list[Sequence]], training: TrainingRun) -> AgreedBatches:
    """Plans batches of sequences. All processes call this together."""
    return training.agree_on_shapes(training.plan(sequences))


def scores_of(trainer: Trainer, params: Any, agreed: AgreedBatches, batches: list[Batch]) -> dict[int, Scores]:
    """Scores the sequences of some batches. All processes call this together.

    Args:
      trainer, params: see `Trainer.score`.
      agreed: what the batches were built of.
      batches: to score.

    Returns:
      The scores of each sequence of this process, by its `id`.
    """
    found: dict[int, Scores] = {}
    scores = trainer.score(params, batches)
    for name in scores[0] if scores else ():
        for pairs in agreed.unpack([one[name] for one in scores]).values():
            for sequence, values in pairs:
                found.setdefault(id(sequence), {})[name] = values
    return found
