"""Shaping: every token of an update gets another advantage than its response's; see `config.grpo.shaping`.

A shaping is a function of an `UpdateView` and of `config.grpo` that returns the tokens' advantages anew, [tokens]. One
of 0 takes a token's gradient, and leaves it in the denominator. The functions here are what shapings are made of.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.named_parts import find_part, numbers_of
from pixel_reasoner_jax.training.update_view import UpdateView

Shaping = Callable[[UpdateView, ConfigDict], np.ndarray]

MAX_DIFFERENCE, MAX_DEPENDENCY = 20.0, 10.0  # of VPPO's released code


def shapings(config: ConfigDict) -> list[tuple[str, Shaping]]:
    """The shapings that `config.grpo.shaping` names, in their order.

    Raises:
      UserError: there is none of such a name.
    """
    return [(name, find_part(name, {}, "shaping")) for name in config.grpo.shaping]


def shape_advantages(view: UpdateView, config: ConfigDict) -> None:
    """Applies the shapings of an experiment to an update, each to what the one before has left.

    All processes call this together.

    Raises:
      UserError: one does not return a finite number for each token.
    """
    for name, shaping in shapings(config):
        made = numbers_of(f"shaping {name!r}", shaping(view, config.grpo), view.sampled.shape, "tokens")
        view.replace("advantages", made.astype(np.float32))


def dependency(without: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
    """How much tokens depend on what another pass lacks: exp(d) - d - 1 of d = without - logprobs, at most 10.

    VPPO (arXiv 2510.09285, its released code) takes the image; d is at most 20 in size. Float64, in nats.
    """
    d = np.clip(without.astype(np.float64) - logprobs, -MAX_DIFFERENCE, MAX_DIFFERENCE)
    return np.clip(np.exp(d) - d - 1, 0.0, MAX_DEPENDENCY)


def relative_weights(values: np.ndarray, of_all: np.ndarray, least: float) -> np.ndarray:
    """Weights of sequences that rise with a value of each, from `least` on; their mean over all is 1 (VPPO).

    least + n * (1 - least) / mean n, where n = (value - smallest) / (largest - smallest). All are 1 where the values
    differ by 1e-6 at most.

    Args:
      values: of this process's sequences.
      of_all: of those of all processes, see `UpdateView.gathered`.
      least: the weight of the smallest value.
    """
    if not len(of_all) or np.ptp(of_all) <= 1e-6:
        return np.ones(len(values))
    smallest, spread = of_all.min(), np.ptp(of_all)
    return least + (values - smallest) / spread * (1 - least) / (((of_all - smallest) / spread).mean() + 1e-8)


def capped_bonus(values: np.ndarray, advantages: np.ndarray, scale: float, share: float) -> np.ndarray:
    """What is added to tokens' advantages: scale * value, and no more than |advantage| / share.

    VOGUE (arXiv 2510.01444) does so with how much noise in the image changes a token (1, 2) and with its entropy
    (0.4, 2); the form is a reconstruction from its abstract and notes.
    """
    return np.minimum(scale * values, np.abs(advantages) / share)


def largest_in_sequences(values: np.ndarray, lengths: np.ndarray, share: float) -> np.ndarray:
    """Whether each token is among the `ceil(share * length)` of its sequence with the largest values; bool [tokens].

    Of equal values the earlier ones are.
    """
    kept = np.zeros(len(values), bool)
    for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        count = int(np.ceil(share * length - 1e-9))  # 0.4 * 5 is a little more than 2
        kept[start + np.argsort(-values[start : start + length], kind="stable")[:count]] = True
    return kept
