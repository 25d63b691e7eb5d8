"""Token log-probabilities in chunks, and the losses built on them.

The hidden state that predicts token t is that of token t - 1: callers pick the pairs. Losses and diagnostics are sums
divided by a given normalizer (the trained tokens of the whole batch), so that adding them up over micro-batches gives
exactly the batch's token means.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from pixel_reasoner_jax.parallel.sharding import RULES

FORBIDDEN_LOGIT = -1e30  # finite, so that probability times logit is 0 and not NaN
MAX_LOG_RATIO = 20.0  # a ratio beyond e**20 would overflow into NaN gradients; it is clipped by any useful bound


def token_logprobs(
    hidden: Float[Array, "*batch tokens width"],
    embedding: Float[Array, "vocab width"],
    targets: Int[Array, "*batch tokens"],
    *,
    temperature: float | Float[Array, "*batch tokens"] = 1.0,
    forbidden: Bool[Array, " vocab"] | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "*batch tokens"], Float[Array, "*batch tokens"]]:
    """Log-probability of each target and the entropy of the distribution it comes from, both float32 in nats.

    The distribution is softmax(hidden @ embedding.T / temperature) over the tokens that are not forbidden. About
    `chunk` positions are worked on at a time and the backward pass computes their logits again, so neither pass holds
    an array of positions x vocabulary. Chunks are cut along the last token axis only, which leaves a sharded batch
    axis sharded. On a mesh, its parts work through their own rows: the embedding is gathered and its gradient summed
    over them once, where the compiler by itself would do both for every chunk.

    Args:
      hidden: final hidden states that predict the targets; their type is the type of the matrix products.
      embedding: of the output. Its gradient is accumulated in float32.
      targets: token ids. A forbidden target gets about -1e30 and a meaningless gradient: mask it.
      temperature: sampling temperature, one for all or one a position; positive.
      forbidden: tokens that cannot be sampled.
      chunk: positions at a time, on each device. None: as many as the model is wide, so that their logits take no more
        room than the embedding's gradient, which every chunk reads and writes; 512 at least, 1,024 at most.
      mesh: that the batch is dealt out on.

    Returns:
      Log-probabilities, and entropies, through which no gradient flows.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    batch, tokens = targets.shape[:-1], targets.shape[-1]
    rows = targets.size // max(tokens, 1)
    parts = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in RULES["batch"])
    if rows % parts:  # such a batch is whole on every device
        mesh, parts = None, 1
    if chunk is None:
        chunk = min(max(hidden.shape[-1], 512), 1024)
    chunks = max(-(-tokens // max(chunk * parts // max(rows, 1), 1)), 1)
    size = -(-tokens // chunks)
    temperature = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), targets.shape)

    def split(array, fill):  # [*batch, tokens, ...] -> [chunks, rows, size, ...]
        array = array.reshape(rows, tokens, *array.shape[len(batch) + 1 :])
        padding = [(0, 0), (0, -tokens % size)] + [(0, 0)] * (array.ndim - 2)
        array = jnp.pad(array, padding, constant_values=fill)
        return jnp.moveaxis(array.reshape(rows, -1, size, *array.shape[2:]), 1, 0)

    def join(array):
        return jnp.moveaxis(array, 0, 1).reshape(rows, -1)[:, :tokens].reshape(targets.shape)

    logprobs, entropy = _chunked_logprobs(
        mesh, platform, split(hidden, 0), embedding, split(targets, 0), split(temperature, 1), forbidden
    )
    return join(logprobs), lax.stop_gradient(join(entropy))


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
      logprobs: under the policy being trained.
      sampled_logprobs: as sampled, with the same temperature and forbidden tokens; a constant.
      advantages: of each token's response.
      train: tokens the policy sampled; prompts and observations are False.
      normalizer: trained tokens of the whole batch.
      clip_low, clip_high: how far the ratio may fall below and rise above 1.
      entropy: of the policy being trained, for the diagnostics.

    Returns:
      The loss and diagnostics, all divided by `normalizer`: "loss"; "ratio"; "clip_fraction", tokens whose gradient
      the clip removes; "logprob_difference", |logprobs - sampled_logprobs|; "kl", ratio - 1 - log ratio (Schulman's
      k3 estimate of KL(sampled || policy)); "entropy" if given.
    """
    # Masked before anything is computed from it: padding may hold -1e30, whose ratio would poison the gradient.
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


def _logits(hidden, embedding, temperature, forbidden):
    """float32 [rows, size, vocab] of one chunk."""
    logits = jnp.einsum("rsh,vh->rsv", hidden, embedding, preferred_element_type=jnp.float32) / temperature[..., None]
    return logits if forbidden is None else jnp.where(forbidden, FORBIDDEN_LOGIT, logits)


def _by_rows(function, mesh: Mesh | None, results: int, whole: Sequence[int], stacked: int | None = None):
    """Has every part of the mesh call a function with its own rows, the second axis of arguments and results.

    Args:
      function: over one part's rows.
      mesh: None: the function as it is.
      results: how many it has.
      whole: numbers of the arguments that all parts have whole.
      stacked: number of a result of which each part has one, along a new first axis; None: there is none.
    """
    if mesh is None:
        return function
    batch = RULES["batch"]

    def call(*arguments):
        inputs = tuple(PartitionSpec(*(() if i in whole else (None, batch))) for i in range(len(arguments)))
        outputs = tuple(PartitionSpec(*((batch,) if i == stacked else (None, batch))) for i in range(results))
        # The vocabulary stays the compiler's to divide, over the axis that is left.
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=inputs, out_specs=outputs, axis_names=set(batch), check_vma=False
        )
        return mapped(*arguments)

    return call


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_logprobs(mesh, platform, hidden, embedding, targets, temperature, forbidden):
    return _chunked_forward(mesh, platform, hidden, embedding, targets, temperature, forbidden)[0]


def _chunked_forward(mesh, platform, hidden, embedding, targets, temperature, forbidden):
    def forward(hidden, weights, targets, temperature, forbidden):
        def step(_, chunk):
            hidden, targets, temperature = chunk
            logits = _logits(hidden, weights, temperature, forbidden)
            normalizers = jax.nn.logsumexp(logits, axis=-1)
            picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
            below = normalizers[..., None] - logits
            entropy = (jnp.exp(-below) * below).sum(-1)
            return None, (picked - normalizers, entropy, normalizers)

        return lax.scan(step, None, (hidden, targets, temperature))[1]

    logprobs, entropy, normalizers = _by_rows(forward, mesh, 3, whole=(1, 4))(
        hidden, embedding.astype(hidden.dtype), targets, temperature, forbidden
    )
    return (logprobs, entropy), (hidden, embedding, targets, temperature, forbidden, normalizers)


def _chunked_backward(mesh, platform, residuals, cotangents):
    hidden, embedding, targets, temperature, forbidden, normalizers = residuals
    # XLA on a CPU would copy every chunk's gradient transposed, and does not if it is summed up as [width, vocab]. On
    # a TPU it is that sum which would be copied.
    turned = platform == "cpu"

    def backward(hidden, weights, targets, temperature, forbidden, normalizers, cotangents):
        def step(total, chunk):
            hidden, targets, temperature, normalizers, cotangent = chunk
            logits = _logits(hidden, weights, temperature, forbidden)
            picked = lax.broadcasted_iota(targets.dtype, logits.shape, 2) == targets[..., None]
            gradient = (picked - jnp.exp(logits - normalizers[..., None])) * (cotangent / temperature)[..., None]
            gradient = gradient.astype(hidden.dtype)
            hidden_gradient = jnp.einsum("rsv,vh->rsh", gradient, weights)
            operands = (hidden, gradient) if turned else (gradient, hidden)
            total += jnp.einsum("rsx,rsy->xy", *operands, preferred_element_type=jnp.float32)
            return total, hidden_gradient

        zeros = jnp.zeros(weights.shape[::-1] if turned else weights.shape, jnp.float32)
        total, hidden_gradient = lax.scan(step, zeros, (hidden, targets, temperature, normalizers, cotangents))
        return hidden_gradient, (total.T if turned else total)[None]

    hidden_gradient, totals = _by_rows(backward, mesh, 2, whole=(1, 4), stacked=1)(
        hidden, embedding.astype(hidden.dtype), targets, temperature, forbidden, normalizers, cotangents[0]
    )
    return hidden_gradient, totals.sum(0).astype(embedding.dtype), None, None, None


_chunked_logprobs.defvjp(_chunked_forward, _chunked_backward)
