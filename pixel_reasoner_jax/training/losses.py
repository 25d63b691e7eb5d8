"""The losses of both phases, of tokens' log-probabilities; see `token_loss`."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

MAX_LOG_RATIO = 20.0  # much larger ratios would overflow into NaN gradients; every useful clip bound is below e**20


def sft_loss(
    logprobs: Float[Array, "batch tokens"],
    train: Bool[Array, "batch tokens"],
    normalizer: float | Float[Array, ""],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Cross-entropy of the trained tokens: -sum(logprobs where train) / normalizer, in nats.

    Returns:
      The loss, and {"loss"}.
    """
    loss = -jnp.where(train, logprobs, 0.0).sum() / normalizer
    return loss, {"loss": loss}


def grpo_loss(
    logprobs: Float[Array, "batch tokens"],
    sampled_logprobs: Float[Array, "batch tokens"],
    advantages: Float[Array, "batch tokens"],
    train: Bool[Array, "batch tokens"],
    normalizer: float | Float[Array, ""],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.35,
    entropy: Float[Array, "batch tokens"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Clipped policy-gradient loss of GRPO with a lower and an upper clip and no KL term.

    With ratio = exp(logprobs - sampled_logprobs), the loss is
    -sum(min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)) / normalizer over the trained tokens
    (Schulman et al. 2017, eq. 7; token mean as in Yu et al. 2025, eq. 8).

    Args:
      logprobs: of the tokens under the policy being trained.
      sampled_logprobs: of the tokens when they were sampled, with the same temperature and forbidden tokens; no
        gradient flows through them.
      advantages: the advantage of each token's response.
      train: True for tokens that the policy sampled, False for those of prompts and observations.
      normalizer: trained tokens of the whole batch.
      clip_low, clip_high: how far the ratio may fall below and rise above 1.
      entropy: of the policy being trained, for the diagnostics.

    Returns:
      The loss and diagnostics, all divided by `normalizer`: "loss"; "ratio"; "clip_fraction", tokens whose gradient
      the clip removes; "logprob_difference", |logprobs - sampled_logprobs|; "kl", ratio - 1 - log ratio (Schulman's
      k3 estimate of KL(sampled || policy)); "entropy" if given.
    """
    # Masked first: padding may hold -1e30, and the gradient of its ratio would be NaN even if masked later.
    difference = jnp.where(train, logprobs - lax.stop_gradient(sampled_logprobs), 0.0)
    log_ratio = jnp.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = jnp.exp(log_ratio)
    unclipped = ratio * advantages
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high) * advantages

    def mean(values):
        return jnp.where(train, values, 0.0).sum() / normalizer

    loss = -mean(jnp.minimum(unclipped, clipped))
    diagnostics = {
        "loss": loss,
        "ratio": mean(ratio),
        "clip_fraction": mean((clipped < unclipped).astype(jnp.float32)),
        "logprob_difference": mean(jnp.abs(difference)),
        "kl": mean(ratio - 1.0 - log_ratio),
    }
    if entropy is not None:
        diagnostics["entropy"] = mean(entropy)
    return loss, lax.stop_gradient(diagnostics)
