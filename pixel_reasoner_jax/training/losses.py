"""The losses of both phases, of tokens' log-probabilities; see `token_loss.token_loss`.

A policy loss is made of a surrogate that `config.grpo.loss` names, and of the auxiliary terms of `config.auxiliary`
whose coefficient is not 0. Each is a function of the tokens of a chunk. The arrays that they need beside
log-probabilities and advantages are computed before the update, on the host: see `policy_update`. So is what terms over
several passes make of their tokens: see `joint_terms`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.named_parts import find_part
from pixel_reasoner_jax.training.preference import preference
from pixel_reasoner_jax.training.schedules import is_on, scheduled_details, with_scheduled

MAX_LOG_RATIO = 20.0  # much larger ratios would overflow into NaN gradients; every useful clip bound is below e**20
MAX_K3 = 10.0  # of a token's k3 estimate, which grows with the reciprocal of its probability

Figures = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Some tokens of an update as a policy loss takes them; arrays are float32 [rows, positions].

    Attributes:
      logprobs: under the policy being trained. They may be about -1e30 where `train` is False.
      ratio: probability under the policy being trained, by the old one; 1 where `train` is False.
      advantages: of each token's response.
      train: True for tokens that the policy sampled, False for padding.
      details: further arrays that the loss and `config` ask for, by name; no gradient flows through them.
      normalizer: trained tokens of the whole update.
    """

    logprobs: Float[Array, "rows positions"]
    ratio: Float[Array, "rows positions"]
    advantages: Float[Array, "rows positions"]
    train: Bool[Array, "rows positions"]
    details: Mapping[str, Float[Array, "rows positions"]]
    normalizer: float | Float[Array, ""]

    def mean(self, values: Array) -> Float[Array, ""]:
        """The part of these tokens in the mean over all trained tokens."""
        return jnp.where(self.train, values, 0.0).sum() / self.normalizer

    def aggregate(self, values: Array) -> Float[Array, ""]:
        """The same with every token's weight in `config.grpo.aggregation`."""
        return self.mean(values * self.details["aggregation"]) if "aggregation" in self.details else self.mean(values)

    def aggregate_weighted(self, values: Array) -> Float[Array, ""]:
        """The same times the weights by which corrections and masks of tokens change a policy loss."""
        return self.aggregate(values * self.details["weights"] if "weights" in self.details else values)


def sft_loss(
    logprobs: Float[Array, "batch tokens"],
    train: Bool[Array, "batch tokens"],
    normalizer: float | Float[Array, ""],
) -> tuple[Float[Array, ""], Figures]:
    """Cross-entropy of the trained tokens: -sum(logprobs where train) / normalizer, in nats.

    Returns:
      The loss, and {"loss"}.
    """
    loss = -jnp.where(train, logprobs, 0.0).sum() / normalizer
    return loss, {"loss": loss}


def clip(tokens: Tokens, settings: ConfigDict) -> tuple[Float[Array, ""], Figures]:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) (Schulman et al. 2017, eq. 7)."""
    unclipped = tokens.ratio * tokens.advantages
    clipped = jnp.clip(tokens.ratio, 1.0 - settings.clip_low, 1.0 + settings.clip_high) * tokens.advantages
    loss = -tokens.aggregate_weighted(jnp.minimum(unclipped, clipped))
    ratio = tokens.mean(tokens.ratio)
    return loss, {"ratio": ratio, "clip_fraction": tokens.mean((clipped < unclipped).astype(jnp.float32))}


def dual_clip(tokens: Tokens, settings: ConfigDict) -> tuple[Float[Array, ""], Figures]:
    """`clip`, but at most -A * dual_clip where the advantage A is negative (Ye et al. 2020)."""
    unclipped = tokens.ratio * tokens.advantages
    clipped = jnp.clip(tokens.ratio, 1.0 - settings.clip_low, 1.0 + settings.clip_high) * tokens.advantages
    objective, least = jnp.minimum(unclipped, clipped), settings.dual_clip * tokens.advantages
    floored = (tokens.advantages < 0) & (objective < least)
    loss = -tokens.aggregate_weighted(jnp.where(floored, least, objective))
    is_clipped = (clipped < unclipped) | floored
    return loss, {
        "ratio": tokens.mean(tokens.ratio),
        "clip_fraction": tokens.mean(is_clipped.astype(jnp.float32)),
        "dual_clip_fraction": tokens.mean(floored.astype(jnp.float32)),
    }


def gspo(tokens: Tokens, settings: ConfigDict) -> tuple[Float[Array, ""], Figures]:
    """`clip` with one ratio for a response, the geometric mean of its tokens' (Zheng et al. 2025, GSPO-token).

    Its gradient goes to every token of the response. The published loss is the sequence mean of it.
    """
    logprobs = jnp.where(tokens.train, tokens.logprobs, 0.0)
    ratio = tokens.details["sequence_ratios"] * jnp.exp(logprobs - lax.stop_gradient(logprobs))
    return clip(dataclasses.replace(tokens, ratio=ratio), settings)


gspo.details = ("sequence_ratios",)


def cispo(tokens: Tokens, settings: ConfigDict) -> tuple[Float[Array, ""], Figures]:
    """-clip(ratio, 1 - clip_low, 1 + clip_high) * A * logprob without a gradient of the ratio (MiniMax-M1, 2025).

    Every token keeps a gradient, however large its ratio. clip_low 1 leaves out the lower bound, as in the paper.
    """
    weight = lax.stop_gradient(jnp.clip(tokens.ratio, 1.0 - settings.clip_low, 1.0 + settings.clip_high))
    logprobs = jnp.where(tokens.train, tokens.logprobs, 0.0)
    loss = -tokens.aggregate_weighted(weight * tokens.advantages * logprobs)
    is_clipped = weight != tokens.ratio
    return loss, {"ratio": tokens.mean(tokens.ratio), "clip_fraction": tokens.mean(is_clipped.astype(jnp.float32))}


SURROGATES = {"clip": clip, "dual_clip": dual_clip, "gspo": gspo, "cispo": cispo, "preference": preference}
"""By the name in `config.grpo.loss`. One's own is `module:name`: a function of `Tokens` and `config.grpo` that returns
the loss of these tokens and figures to log, all of them sums over tokens divided by the normalizer. Its attribute
`details`, if it has one, names the arrays that it takes from `Tokens.details`. One that compares responses is joint."""


SLOPES, VALUES, ENTROPY_SLOPES = "slopes", "values", "entropy_slopes"
"""Details of terms over several passes: what their part of the loss has as derivatives by a token's log-probability,
its value at the token, and its derivative by the entropy."""


def is_joint(part: Any) -> bool:
    """Whether a surrogate or an auxiliary term is computed before the update, from passes; see `joint_terms`."""
    return bool(declared(part, "gradients"))


def declared(part: Any, attribute: str) -> tuple[Any, ...]:
    """What a function of one's own says in an attribute, such as `details`: some names, or a single one."""
    names = getattr(part, attribute, ())
    return (names,) if isinstance(names, str) or callable(names) else tuple(names)


def auxiliary_terms(config: ConfigDict) -> dict[str, Callable[..., Any]]:
    """The functions of `config.auxiliary.terms`, by label.

    One is a function of `Tokens`, whose log-probabilities are 0 where `train` is False, and of `config.auxiliary` that
    returns the term of each token, [rows, positions]; `details` as of a surrogate. Or it is joint, see `is_joint`.

    Raises:
      UserError: there is none of such a name.
    """
    terms = config.auxiliary.terms
    return {label: find_part(terms[label].function, {}, "auxiliary term") for label in terms}


def has_entropy_gradient(config: ConfigDict) -> bool:
    """Whether the loss of an experiment has a gradient by the entropy."""
    return any(is_on(config, key) for key in ("auxiliary.entropy", *(f"passes.{one}.entropy" for one in config.passes)))


def surrogate_of(settings: ConfigDict) -> Callable[[Tokens, ConfigDict], tuple[Float[Array, ""], Figures]]:
    """The surrogate that `config.grpo` names."""
    return find_part(settings.loss, SURROGATES, "policy loss")


def _of_each_token(part: str, returned: Any, train: Array) -> Array:
    """What a part of one's own has returned for tokens.

    Raises:
      UserError: it is no array of their shape.
    """
    if jnp.shape(returned) != train.shape:
        raise UserError(f"the {part} must return a number for each token, {train.shape}; it is {jnp.shape(returned)}")
    return returned


def k1(logprobs: Array, reference: Array) -> Array:
    """logprobs - reference: no bias as an estimate of KL; its gradient has the mean 0."""
    return logprobs - reference


def k2(logprobs: Array, reference: Array) -> Array:
    """Half its square: a little bias as an estimate; its gradient has the mean of KL's."""
    return jnp.square(logprobs - reference) / 2


def k3(logprobs: Array, reference: Array) -> Array:
    """exp(-d) + d - 1 of the difference d: no bias and never negative; its gradient is that of the other KL.

    The exponent is at most 20 and the result at most 10, beyond which there is no gradient.
    """
    below = jnp.clip(reference - logprobs, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return jnp.minimum(jnp.exp(below) - below - 1.0, MAX_K3)


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
"""Of KL(policy || reference) at a token that the policy sampled (Schulman 2020, "Approximating KL divergence"); by the
name in `config.auxiliary.kl_estimator`, or `module:name`."""


def policy_loss(config: ConfigDict) -> Callable[..., tuple[Float[Array, ""], Figures]]:
    """The loss of an RL experiment, for `token_loss.token_loss`.

    Returns:
      A function of (logprobs, entropy, details, normalizer). `details` are `target_mask`, `advantages`, `logprobs` (the
      old ones, with the same temperature and forbidden tokens) and what `policy_update.details_of` names besides. Its
      figures are token means: "loss"; those of the surrogate, of ours "ratio" and "clip_fraction", tokens whose
      gradient the clip removes; "logprob_difference", |logprobs - old ones|; "kl", ratio - 1 - log ratio (k3 of
      KL(old || policy)); "entropy"; and of the terms of KL and of right responses, where they are on, their values
      without the coefficient, "reference_kl" and "nll", and of others "aux_<label>".

    Raises:
      UserError: the config names no part.
    """
    surrogate, scheduled = surrogate_of(config.grpo), scheduled_details(config)
    estimator = find_part(config.auxiliary.kl_estimator, ESTIMATORS, "estimator of KL")
    has_entropy, has_kl, has_nll, has_kl_cov = (
        is_on(config, f"auxiliary.{name}") for name in ("entropy", "kl", "nll", "kl_cov")
    )
    terms = {label: term for label, term in auxiliary_terms(config).items() if not is_joint(term)}

    def loss(logprobs, entropy, details, normalizer):
        train = details["target_mask"] > 0
        values = {key: details[key][0, 0] for key in scheduled}  # all of them are the same
        grpo, auxiliary = (with_scheduled(config, section, values) for section in ("grpo", "auxiliary"))
        # Masked first: padding may hold -1e30, and the gradient of its ratio would be NaN even if masked later.
        difference = jnp.where(train, logprobs - lax.stop_gradient(details["logprobs"]), 0.0)
        log_ratio = jnp.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)
        tokens = Tokens(logprobs, jnp.exp(log_ratio), details["advantages"], train, details, normalizer)
        total, figures = (0.0, {}) if is_joint(surrogate) else surrogate(tokens, grpo)
        if has_entropy:
            total -= auxiliary.entropy * tokens.aggregate(entropy)
        if has_kl:
            masked = [jnp.where(train, values, 0.0) for values in (logprobs, details["reference"])]
            divergence = estimator(*masked)
            total += auxiliary.kl * tokens.aggregate(divergence)
            figures["reference_kl"] = tokens.mean(divergence)
        if has_nll:  # `nll` makes it the mean over the tokens of right responses
            figures["nll"] = -tokens.mean(details["nll"] * jnp.where(train, logprobs, 0.0))
            total += auxiliary.nll * figures["nll"]
        if has_kl_cov:  # the detail has the sign: |logprob - old| has no gradient where nothing has moved
            total += auxiliary.kl_cov * tokens.aggregate(details["kl_cov"] * difference)
        for label, term in terms.items():
            masked = dataclasses.replace(tokens, logprobs=jnp.where(train, logprobs, 0.0))
            of_term = _of_each_token(f"auxiliary term {label!r}", term(masked, auxiliary), train)
            total += auxiliary.terms[label].coefficient * tokens.aggregate(of_term)
            figures[f"aux_{label}"] = tokens.mean(of_term)
        if SLOPES in details:  # not of the trained tokens alone: `train` is False in the rows of further passes
            moved = logprobs - lax.stop_gradient(logprobs)
            total += (details[SLOPES] * moved + details[VALUES]).sum() / normalizer
        if ENTROPY_SLOPES in details:
            total += (details[ENTROPY_SLOPES] * entropy).sum() / normalizer
        figures = {
            "loss": total,
            **figures,
            "logprob_difference": tokens.mean(jnp.abs(difference)),
            "kl": tokens.mean(tokens.ratio - 1.0 - log_ratio),
            "entropy": tokens.mean(entropy),
        }
        return total, lax.stop_gradient(figures)

    return loss
