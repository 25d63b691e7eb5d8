"""Direct preference optimization (DPO, Rafailov et al. 2023) between the responses of a query, as a policy loss.

    loss = mean over pairs of -log sigmoid(margin)
    margin = beta * ((logprob - reference)(chosen) - (logprob - reference)(rejected)), sums over a response's tokens

It is a joint term (`joint_terms`): a response's weight depends on all tokens of two responses, but at the parameters of
the update it is a number, so that the gradient by log-probabilities is -beta * sigmoid(-margin) at the chosen tokens
and the opposite at the rejected ones. A pair is found within an update: `replay.method = "pairs"` keeps both responses
in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.named_parts import find_part
from pixel_reasoner_jax.training.update_view import Linearized, UpdateView

Pairs = Sequence[tuple[int, int]]


def best_and_worst(view: UpdateView) -> Pairs:
    """Of each query's responses in the update, that with the largest and that with the smallest advantage.

    There is no pair where all are equal. Within a query, advantages are in the order of rewards.
    """
    of_query: dict[str, list[int]] = {}
    for number, sequence in enumerate(view.sequences):
        if view.lengths[number]:
            of_query.setdefault(sequence.query_id, []).append(number)
    means = view.sequence_means(view["advantages"])
    ordered = [sorted(numbers, key=lambda number: means[number]) for numbers in of_query.values()]
    return [(numbers[-1], numbers[0]) for numbers in ordered if means[numbers[-1]] > means[numbers[0]]]


PAIRS: dict[str, Callable[[UpdateView], Pairs]] = {"best_and_worst": best_and_worst}
"""By the name in `config.grpo.preference_pairs`, or `module:function`: functions of an `UpdateView` that return pairs
(chosen, rejected) of indices into its `sequences`."""


def preference(view: UpdateView, settings: ConfigDict) -> Linearized:
    """The loss with the pairs and the beta of `config.grpo`. All processes call this together.

    Figures: `preference_pairs` of the update, and their means of the margin and of whether it is positive.

    Raises:
      UserError: pairs of one's own are none.
    """
    name = settings.preference_pairs
    pairs = _checked(name, find_part(name, PAIRS, "choice of pairs")(view), len(view.sequences))
    made, margins = of_pairs(view, pairs, settings.preference_beta)
    count = view.total(np.ones(len(pairs)))
    view.figures["preference_pairs"] = count
    view.figures["preference_margin"] = view.total(margins) / max(count, 1.0)
    view.figures["preference_accuracy"] = view.total(margins > 0) / max(count, 1.0)
    return made


preference.gradients, preference.passes = ("present",), ("reference",)


def of_pairs(
    view: UpdateView, pairs: Pairs, beta: float, counted: np.ndarray | None = None
) -> tuple[Linearized, np.ndarray]:
    """The loss of some pairs, and their margins. All processes call this together.

    Args:
      view: of an update with the passes "present" and "reference".
      pairs: (chosen, rejected) of this process, indices into `view.sequences`.
      beta: in the margin.
      counted: bool [tokens], which tokens count, such as those of one turn; None: all of them.

    Returns:
      The mean over the pairs of all processes, as a part of the loss; and float64 [pairs].
    """
    counted = np.ones(len(view.sampled)) if counted is None else counted.astype(float)
    above = (view.logprobs("present").astype(np.float64) - view.logprobs("reference")) * counted
    sums = view.sequence_means(above) * view.lengths
    chosen, rejected = np.array(pairs, int).reshape(-1, 2).T
    margins = beta * (sums[chosen] - sums[rejected])
    weight = view.size.tokens / max(view.total(np.ones(len(margins))), 1.0)  # of a pair in a mean over tokens
    losses, slopes = np.zeros((2, len(view.lengths)))
    slope = beta * np.exp(-np.logaddexp(0.0, margins))  # beta * sigmoid(-margin)
    np.add.at(slopes, chosen, -slope)
    np.add.at(slopes, rejected, slope)
    np.add.at(losses, chosen, np.logaddexp(0.0, -margins))
    per_token = losses / np.maximum(view.lengths, 1)
    values, slopes = (weight * np.repeat(of_sequences, view.lengths) for of_sequences in (per_token, slopes))
    return Linearized(values, {"present": slopes * counted}), margins


def _checked(name: str, pairs: Any, sequences: int) -> Pairs:
    try:
        found = [(int(chosen), int(rejected)) for chosen, rejected in pairs]
    except (TypeError, ValueError):
        found = [(-1, -1)]
    if all(0 <= one < sequences for pair in found for one in pair):
        return found
    raise UserError(
        f"the choice of pairs {name!r} must return (chosen, rejected) pairs of indices below {sequences}; it is"
        f" {shown(pairs)}"
    )
