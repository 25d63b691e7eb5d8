"""Terms of a loss over several passes of an update, with gradients through each: PAPO's, preferences.

What masks an image, or compares two responses, is a function of log-probabilities that no chunk of tokens has together.
But all passes are made at the same parameters, those of the update. So its gradient is the sum over tokens and passes
of the function's derivative by the log-probability, a number known before the update, times the gradient of this log-
probability: exactly, not nearly. The function gives these numbers (`Linearized`); the tokens of the update get those
of the pass "present", and for each other pass its sequences join the update as further rows, which the policy loss, its
figures and its denominator leave out.

A joint term is a function of an `UpdateView` and of `config.auxiliary` (a policy loss: `config.grpo`) that returns
`Linearized`. Its attribute `gradients` names the passes whose log-probabilities it has derivatives by, `passes` those
that it looks at besides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.named_parts import numbers_of
from pixel_reasoner_jax.training.losses import (
    ENTROPY_SLOPES,
    SLOPES,
    VALUES,
    auxiliary_terms,
    declared,
    is_joint,
    surrogate_of,
)
from pixel_reasoner_jax.training.packing import Batch, Sequence
from pixel_reasoner_jax.training.schedules import is_on
from pixel_reasoner_jax.training.update_view import Linearized, UpdateView
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches

PRESENT = "present"


def joint_parts(config: ConfigDict) -> dict[str, Callable[[UpdateView, ConfigDict], Linearized]]:
    """The joint parts of an experiment's loss, by what they are called in messages."""
    parts = {_policy_loss(config): surrogate_of(config.grpo)}
    parts |= {_auxiliary_term(label): term for label, term in auxiliary_terms(config).items()}
    return {name: part for name, part in parts.items() if is_joint(part)}


def _policy_loss(config: ConfigDict) -> str:
    return f"policy loss {config.grpo.loss!r}"


def _auxiliary_term(label: str) -> str:
    return f"auxiliary term {label!r}"


def row_labels(config: ConfigDict) -> tuple[str, ...]:
    """The labels of the passes whose sequences join an update as further rows.

    Raises:
      UserError: one of them is not made under the present policy, or is as asked; or there is none of the label.
    """
    asked = {label: name for name, part in joint_parts(config).items() for label in declared(part, "gradients")}
    asked.pop(PRESENT, None)
    asked |= {label: f"config.passes.{label}.entropy" for label in _with_entropy(config)}
    for label, asking in asked.items():
        settings = config.passes.get(label)
        if settings is None or settings.policy != PRESENT or settings.context == "as_asked":
            raise UserError(
                f"{asking} has a gradient through the pass {label!r}: it must be one of config.passes with the policy"
                " 'present' and another context than 'as_asked'"
            )
    return tuple(label for label in config.passes if label in asked)


def joint_details(config: ConfigDict) -> tuple[str, ...]:
    """The details that the loss takes for joint terms."""
    return (SLOPES, VALUES) * bool(joint_parts(config)) + (ENTROPY_SLOPES,) * bool(_with_entropy(config))


def _with_entropy(config: ConfigDict) -> list[str]:
    """The labels of the passes whose tokens have a gradient by their entropy."""
    return [label for label in config.passes if is_on(config, f"passes.{label}.entropy")]


def joint_arrays(
    view: UpdateView, weights: np.ndarray | float, config: ConfigDict
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Computes the joint terms of an update. All processes call this together.

    Args:
      view: of the update.
      weights: of `config.grpo.aggregation`, [tokens], or 1; those of auxiliary terms and entropies, not of a policy
        loss, which is whole.
      config: the experiment.

    Returns:
      The arrays [tokens] of `joint_details` for the tokens of the update, and for those of the rows of each of
      `row_labels`.

    Raises:
      UserError: a part returns something else than numbers for the passes that it names.
    """
    count = view.sampled.shape
    of_passes = {label: {name: np.zeros(count) for name in joint_details(config)} for label in row_labels(config)}
    of_update = {name: np.zeros(count) for name in joint_details(config)}
    arrays = {PRESENT: of_update, **of_passes}

    def add(name: str, settings: ConfigDict, factor: np.ndarray | float) -> np.ndarray:
        part = parts[name]
        made = _checked(name, part(view, settings), declared(part, "gradients"), count)
        of_update[VALUES] += factor * made.values
        for label, slopes in made.slopes.items():
            arrays[label][SLOPES] += factor * slopes
        return made.values

    parts = joint_parts(config)
    if (name := _policy_loss(config)) in parts:
        add(name, config.grpo, 1.0)
    for label, term in config.auxiliary.terms.items():
        if (name := _auxiliary_term(label)) in parts:
            view.figure(f"aux_{label}", add(name, config.auxiliary, term.coefficient * weights))
    for label in _with_entropy(config):
        of_passes[label][ENTROPY_SLOPES] -= config.passes[label].entropy * weights
        view.figure(f"entropy_{label}", view.entropy(label))
    return of_update, of_passes


@dataclasses.dataclass(frozen=True)
class ShownRows:
    """The sequences of an update as a pass shows them, in batches of their own.

    Attributes:
      sequences: in the order of those of the update.
      agreed, batches: that they make.
    """

    sequences: list[Sequence]
    agreed: AgreedBatches
    batches: list[Batch]

    def carrying(self, values: Mapping[str, np.ndarray], lengths: np.ndarray, names: tuple[str, ...]) -> list[Batch]:
        """The batches as they join an update: their tokens count as padding everywhere but in `values`.

        Args:
          values: arrays for the tokens of the update.
          lengths: how many of them each sequence has.
          names: of all details that the loss takes.
        """
        view, ends = UpdateView(self.agreed, self.batches), np.cumsum(lengths)[:-1]
        arrays = {}
        for name, of_tokens in values.items():
            of_each = dict(zip(map(id, self.sequences), np.split(of_tokens, ends), strict=bool(self.sequences)))
            arrays[name] = view.rows(np.concatenate([np.zeros(0), *(of_each[id(one)] for one in view.sequences)]))
        joined = []
        for number, batch in enumerate(self.batches):
            zeros = np.zeros_like(batch["target_mask"])
            details = {name: arrays[name][number] if name in arrays else zeros for name in names}
            joined.append({**batch, "target_mask": zeros, "advantages": zeros, **details})
        return joined


def _checked(name: str, made: Any, gradients: tuple[str, ...], count: tuple[int, ...]) -> Linearized:
    if not isinstance(made, Linearized) or set(made.slopes) != set(gradients):
        raise UserError(f"the {name} must return Linearized with slopes of {', '.join(gradients)}; it is {shown(made)}")
    values = numbers_of(f"{name}, its values,", made.values, count, "tokens")
    slopes = {
        label: numbers_of(f"{name}, its slopes of {label!r},", slopes, count, "tokens")
        for label, slopes in made.slopes.items()
    }
    return Linearized(values, slopes)
