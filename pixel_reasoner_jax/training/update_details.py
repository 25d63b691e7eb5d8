"""The details that a policy loss takes for every trained token: functions of the update, on the host, in numpy.

Each is a function of an `UpdateView` and of the experiment's config that returns float [tokens]; its attribute `passes`
names the passes that it looks at, or is a function of the config that does (see `passes`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.named_parts import find_part, numbers_of
from pixel_reasoner_jax.training import token_weights
from pixel_reasoner_jax.training.losses import declared
from pixel_reasoner_jax.training.schedules import is_on, is_scheduled
from pixel_reasoner_jax.training.token_weights import AGGREGATIONS, CORRECTIONS
from pixel_reasoner_jax.training.update_view import UpdateView

HostFunction = Callable[[UpdateView, ConfigDict], np.ndarray]


def passes_of(part: Any, config: ConfigDict) -> tuple[str, ...]:
    """The labels of the passes that a function of the update looks at, or has a gradient through."""
    named = [one(config) if callable(one) else (one,) for one in declared(part, "passes")]
    return *(label for labels in named for label in labels), *declared(part, "gradients")


def correction_of(config: ConfigDict) -> str:
    """`config.grpo.correction`; for "auto", "tis" where rollouts round weights or the cache to int8, else "none"."""
    if config.grpo.correction != "auto":
        return config.grpo.correction
    return "tis" if "int8" in (config.rollout.weights, config.rollout.cache_dtype) else "none"


def aggregation(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """Weights of `config.grpo.aggregation`."""
    settings = ConfigDict(config.grpo)
    settings.constant_length = config.grpo.constant_length or config.rollout.max_response_tokens
    part = find_part(config.grpo.aggregation, AGGREGATIONS, "aggregation")
    weights = part(view.lengths, view.size, settings)
    name = f"aggregation {config.grpo.aggregation!r}"
    return np.repeat(numbers_of(name, weights, view.lengths.shape, "sequences"), view.lengths)


def correction(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """Weights of the trainer's probabilities, by which the ratios' are, in place of the sampler's."""
    name = correction_of(config)
    log_ratios = view.logprobs("old").astype(np.float64) - view.sampled
    made = find_part(name, CORRECTIONS, "correction")(log_ratios, view.lengths, config.grpo.correction_bounds)
    made = numbers_of(f"correction {name!r}", made, log_ratios.shape, "tokens")
    view.figure("correction_weight", made)
    view.figure("correction_rejected", made == 0)
    view.figure("logprob_difference", np.abs(log_ratios))
    return made


correction.passes = ("old",)


def unsure(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """1 for the share `config.grpo.entropy_fraction` of the tokens, those with the highest entropy, else 0."""
    entropy = view.entropy("present")
    kept = token_weights.top_share(entropy, config.grpo.entropy_fraction, view.size)
    view.figures["entropy_kept"] = view.mean(np.where(kept, entropy, 0.0)) / view.mean(kept)
    return kept


unsure.passes = ("present",)


def clip_cov(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """0 for the tokens that Clip-Cov draws, else 1."""
    present, auxiliary = view.logprobs("present"), config.auxiliary
    if not auxiliary.clip_cov_fraction:  # as it is scheduled for now
        view.figure("clip_cov_fraction", np.zeros(len(present)))
        return np.ones(len(present))
    covariance = token_weights.covariances(present, view["advantages"], view.size)
    covariance[_clipped(view, config.grpo, present - view["logprobs"])] = -np.inf  # they have no loss as it is
    drawn = token_weights.drawn_between(
        covariance,
        auxiliary.clip_cov_bounds,
        auxiliary.clip_cov_fraction,
        view.size,
        view.shards,
        (config.seed, view.step),
    )
    view.figure("clip_cov_fraction", drawn)
    return ~drawn


clip_cov.passes = ("present",)


def _clipped(view: UpdateView, grpo: ConfigDict, log_ratios: np.ndarray) -> np.ndarray:
    """Whether the policy loss takes a token's gradient already, bool [tokens]; of a loss of one's own, none is."""
    advantages = view["advantages"]
    if grpo.loss not in ("clip", "dual_clip", "gspo"):
        return np.zeros(len(log_ratios), bool)
    if grpo.loss == "gspo":
        log_ratios = np.repeat(view.sequence_means(log_ratios), view.lengths)
    found = token_weights.clipped(log_ratios, advantages, grpo.clip_low, grpo.clip_high)
    if grpo.loss == "dual_clip":
        found |= (advantages < 0) & (log_ratios > np.log(grpo.dual_clip))
    return found


def weight_parts(config: ConfigDict) -> list[HostFunction]:
    """What the weights of a policy loss are the product of."""
    parts = {
        correction: correction_of(config) != "none",
        unsure: config.grpo.entropy_fraction < 1 or is_scheduled(config, "grpo.entropy_fraction"),
        clip_cov: is_on(config, "auxiliary.clip_cov_fraction"),
    }
    return [part for part, is_on in parts.items() if is_on]


def weights(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """Weights of corrections and masks of tokens."""
    made = np.ones(len(view.sampled))
    for part in weight_parts(config):
        made = made * part(view, config)
    return made


weights.passes = lambda config: {label for part in weight_parts(config) for label in part.passes}


def sequence_ratios(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """GSPO's ratios."""
    return token_weights.sequence_ratios(view.logprobs("present"), view["logprobs"], view.lengths)


sequence_ratios.passes = ("present",)


def reference(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """Log-probabilities under the reference."""
    return view.logprobs("reference")


reference.passes = ("reference",)


def nll(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """For tokens of right responses 1 by the share of the tokens that are of such, else 0."""
    right = np.repeat([float(one.correct > 0) for one in view.sequences], view.lengths)
    return right / max(view.mean(right), 1 / view.size.tokens)


def kl_cov(view: UpdateView, config: ConfigDict) -> np.ndarray:
    """Of the tokens with the largest covariances, 1 where they have become likelier in the episode, -1 where less."""
    present = view.logprobs("present")
    covariance = token_weights.covariances(present, view["advantages"], view.size)
    marked = token_weights.top_share(covariance, config.auxiliary.kl_cov_fraction, view.size)
    moved = present - view.logprobs("old")
    if view.is_first:  # nothing has moved yet: what there is, is rounding
        moved = np.zeros_like(moved)
    signs = marked * np.sign(moved)
    view.figure("kl_cov", signs * moved)
    return signs


kl_cov.passes = ("present", "old")

DETAILS: dict[str, HostFunction] = {
    "aggregation": aggregation,
    "weights": weights,
    "sequence_ratios": sequence_ratios,
    "reference": reference,
    "nll": nll,
    "kl_cov": kl_cov,
}
"""By the names that `details` of a policy loss or of an auxiliary term may have, in the order in which they are made,
beside functions of one's own: as such, or as `module:function`."""


def find_details(asking: Iterable[tuple[str, Any]]) -> dict[str, HostFunction]:
    """The details that parts of a loss ask for, by the names under which they find them in `Tokens.details`.

    A name of ours is that name; of one's own, a function's is its `__name__`, and `module:function` is itself.

    Args:
      asking: what each part is, for messages ("policy loss 'clip'"), and the part.

    Raises:
      UserError: there is none of such a name, or two functions have the same.
    """
    found: dict[str, HostFunction] = {}
    for name, part in asking:
        for detail in declared(part, "details"):
            if isinstance(detail, str) and detail not in DETAILS and ":" not in detail:
                known = f"known: {', '.join(DETAILS)}, or module:function of your own"
                raise UserError(f"{name} asks for the detail {detail!r}; {known}")
            if not isinstance(detail, str) and not inspect.isroutine(detail):
                raise UserError(f"{name} asks for the detail {shown(detail)}: give names, or functions")
            label = detail if isinstance(detail, str) else detail.__name__
            function = find_part(detail, DETAILS, "detail") if isinstance(detail, str) else detail
            other = found.get(label, DETAILS.get(label, function))
            if other is not function:
                raise UserError(f"{name} asks for the detail {label!r}, and another function has this name: rename it")
            found[label] = function
    return found
