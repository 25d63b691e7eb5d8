"""Losses of tokens' log-probabilities, and these themselves, without ever holding the logits of all tokens.

The hidden state of token t - 1 predicts token t: callers pick the pairs. Losses and diagnostics are sums divided by a
given normalizer (the number of trained tokens of all micro-batches of an update), so that adding them up over chunks
and micro-batches gives exactly the update's token means.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from pixel_reasoner_jax.parallel.sharding import RULES

Diagnostics = dict[str, Array]

FORBIDDEN_LOGIT = -1e30  # finite, so that probability times logit is 0 and not NaN


def token_loss(
    loss: Callable[..., tuple[Array, Diagnostics]],
    hidden: Float[Array, "*batch tokens width"],
    embedding: Float[Array, "vocab width"],
    targets: Int[Array, "*batch tokens"],
    details: Mapping[str, Array],
    normalizer: float | Float[Array, ""],
    *,
    temperature: float | Float[Array, "*batch tokens"] = 1.0,
    forbidden: Bool[Array, " vocab"] | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    entropy_gradient: bool = False,
) -> tuple[Float[Array, ""], Diagnostics]:
    """Applies a loss to the targets' log-probabilities; each logit is computed once, and never are all in memory.

    The distribution is softmax(hidden @ embedding.T / temperature) over the tokens that are not forbidden. About
    `chunk` positions are processed at a time. Each chunk's loss is differentiated in the forward pass, while its logits
    are in memory, and its gradients by hidden states and embedding are accumulated (as in Hsu et al. 2024, Liger
    Kernel); the backward pass only scales them. Tokens are split into chunks along the last token axis only, which
    leaves a sharded batch axis sharded. On a mesh, each part processes its rows of the batch: the embedding is
    all-gathered and its gradient summed over the parts once, where the compiler alone would do both for every chunk.

    Args:
      loss: a function of (logprobs, entropy, details, normalizer) of a chunk. `logprobs` (of the targets) and `entropy`
        are float32 [rows, positions], in nats; `details` has arrays of this shape. It returns (loss, diagnostics):
        scalars that are added up over all chunks. Chunks are padded with details of 0. There the loss must add nothing,
        by `jnp.where`, since log-probabilities may be about -1e30. No gradient flows through the diagnostics.
      hidden: final hidden states that predict the targets; matrix products are computed in their type.
      embedding: the output embedding. Its gradient is accumulated in float32.
      targets: token ids. A forbidden target gets about -1e30 and a meaningless gradient: mask it.
      details: arrays shaped like targets, for the loss.
      normalizer: for the loss.
      temperature: sampling temperature, one for all positions or one for each; positive.
      forbidden: tokens that cannot be sampled.
      chunk: positions that each device processes at a time. None: half the model's width, so that their logits and the
        gradient of these take no more memory than the embedding's gradient, which every chunk reads and writes; 384 at
        least, 1,024 at most.
      mesh: the mesh that the batch is sharded over; None for one device.
      entropy_gradient: whether a gradient flows through the entropy.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    mesh, hidden, chunks = _chunked(hidden, targets, temperature, details, chunk, mesh)
    return _token_loss(loss, mesh, platform, entropy_gradient, hidden, embedding, chunks, normalizer, forbidden)


def token_scores(
    hidden: Float[Array, "*batch tokens width"],
    embedding: Float[Array, "vocab width"],
    targets: Int[Array, "*batch tokens"],
    *,
    temperature: float | Float[Array, "*batch tokens"] = 1.0,
    forbidden: Bool[Array, " vocab"] | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "*batch tokens"], Float[Array, "*batch tokens"]]:
    """The targets' log-probabilities and the entropy of the distribution at each of them, without gradients.

    See `token_loss` for the arguments, the distribution and how memory is bounded. Both are float32, in nats.
    """
    mesh, hidden, chunks = _chunked(hidden, targets, temperature, {}, chunk, mesh)

    def of_part(hidden, weights, chunks, forbidden):
        def step(_, chunk):
            hidden, (targets, temperature, _) = chunk
            return None, _distribution(hidden, weights, targets, temperature, forbidden)[1:]

        return lax.scan(step, None, (hidden, chunks))[1]

    if mesh is not None:
        rows, replicated = PartitionSpec(None, RULES["batch"]), PartitionSpec()
        of_part = _on_parts(of_part, mesh, (rows, replicated, rows, replicated), (rows, rows))

    def joined(values):  # [chunks, rows, size] -> [*batch, tokens]
        values = jnp.moveaxis(values, 0, 1)
        return values.reshape(values.shape[0], -1)[:, : targets.shape[-1]].reshape(targets.shape)

    logprobs, entropy = of_part(hidden, embedding.astype(hidden.dtype), chunks, forbidden)
    return joined(logprobs), joined(entropy)


def _chunked(hidden, targets, temperature, details, chunk, mesh):
    """Splits tokens into chunks along their axis; see `token_loss` for the arguments.

    Returns:
      The mesh, None where its parts do not divide the rows; the hidden states, [chunks, rows, size, width]; and
      targets, temperatures and details, [chunks, rows, size].
    """
    batch, tokens = targets.shape[:-1], targets.shape[-1]
    rows = targets.size // max(tokens, 1)
    parts = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in RULES["batch"])
    if rows % parts:  # such a batch is replicated on every device
        mesh, parts = None, 1
    if chunk is None:
        chunk = min(max(hidden.shape[-1] // 2, 384), 1024)
    chunks = max(-(-tokens // max(chunk * parts // max(rows, 1), 1)), 1)
    size = -(-tokens // chunks)
    temperature = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), targets.shape)

    def split(array, fill=0):  # [*batch, tokens, ...] -> [chunks, rows, size, ...]
        array = array.reshape(rows, tokens, *array.shape[len(batch) + 1 :])
        padding = [(0, 0), (0, -tokens % size)] + [(0, 0)] * (array.ndim - 2)
        array = jnp.pad(array, padding, constant_values=fill)
        return jnp.moveaxis(array.reshape(rows, -1, size, *array.shape[2:]), 1, 0)

    chunks = split(targets), split(temperature, 1), jax.tree.map(split, dict(details))
    return mesh, split(hidden), chunks


def _distribution(hidden, weights, targets, temperature, forbidden):
    """-log(probability) of all tokens at each position of a chunk; the targets' log-probabilities; and the entropy."""
    logits = jnp.einsum("rsh,vh->rsv", hidden, weights, preferred_element_type=jnp.float32)
    if forbidden is not None:
        logits = jnp.where(forbidden, FORBIDDEN_LOGIT, logits)
    below = (logits.max(axis=-1, keepdims=True) - logits) / temperature[..., None]
    below += jnp.log(jnp.exp(-below).sum(axis=-1, keepdims=True))
    logprobs = -jnp.take_along_axis(below, targets[..., None], axis=-1)[..., 0]
    return below, logprobs, (jnp.exp(-below) * below).sum(-1)


def _on_parts(function, mesh, in_specs, out_specs):
    """Every part of the mesh applies a function to its rows."""
    # The compiler still shards the vocabulary over the mesh axis that is not named here, tensor.
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=set(RULES["batch"]),
        check_vma=False,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _token_loss(loss, mesh, platform, entropy_gradient, *arguments):
    return _by_parts(loss, mesh, platform, None, *arguments)[0]


def _token_loss_forward(loss, mesh, platform, entropy_gradient, hidden, embedding, *others):
    differentiated = (0, 1) if entropy_gradient else 0  # arguments of the loss
    sums, gradients = _by_parts(loss, mesh, platform, differentiated, hidden, embedding, *others)
    return sums, (*gradients, jnp.zeros((), embedding.dtype))


def _token_loss_backward(loss, mesh, platform, entropy_gradient, saved, cotangents):
    hidden, embedding, like_embedding = saved
    scale = cotangents[0]
    return (scale * hidden).astype(hidden.dtype), (scale * embedding).astype(like_embedding.dtype), None, None, None


_token_loss.defvjp(_token_loss_forward, _token_loss_backward)


def _by_parts(loss, mesh, platform, differentiated, hidden, embedding, chunks, normalizer, forbidden):
    """Computes the loss over all chunks; every part of the mesh processes its rows, the second axis of the chunks.

    Args:
      differentiated: the arguments of the loss that a gradient flows through: 0, log-probabilities, or (0, 1), entropy
        too; None: there is no gradient.

    Returns:
      (loss, diagnostics); and the loss's gradients by hidden states and by embedding, the second in float32, or None
      for each.
    """
    # XLA on a CPU would transpose a copy of every chunk's gradient, unless the sum has the shape [width, vocab]. On a
    # TPU it would copy a sum of that shape.
    transposed = platform == "cpu"

    def of_part(hidden, weights, chunks, normalizer, forbidden):
        def step(total, chunk):
            hidden, (targets, temperature, details) = chunk
            below, logprobs, entropy = _distribution(hidden, weights, targets, temperature, forbidden)
            arguments = logprobs, entropy, details, normalizer
            if differentiated is None:
                return total, (loss(*arguments), None)
            sums, slope = jax.value_and_grad(loss, differentiated, has_aux=True)(*arguments)
            slope, entropy_slope = slope if isinstance(slope, tuple) else (slope, None)
            is_target = lax.broadcasted_iota(targets.dtype, below.shape, 2) == targets[..., None]
            gradient = (is_target - jnp.exp(-below)) * (slope / temperature)[..., None]
            if entropy_slope is not None:
                by_logits = jnp.exp(-below) * (below - entropy[..., None])
                gradient += by_logits * (entropy_slope / temperature)[..., None]
            gradient = gradient.astype(hidden.dtype)
            operands = (hidden, gradient) if transposed else (gradient, hidden)
            total += jnp.einsum("rsx,rsy->xy", *operands, preferred_element_type=jnp.float32)
            return total, (sums, jnp.einsum("rsv,vh->rsh", gradient, weights))

        shape = weights.shape[::-1] if transposed else weights.shape
        total = None if differentiated is None else jnp.zeros(shape, jnp.float32)
        total, (sums, hidden_gradient) = lax.scan(step, total, (hidden, chunks))
        total = total.T if total is not None and transposed else total
        # The sums of each part get a leading axis of size 1; sharded over the parts, it stacks them.
        return *jax.tree.map(lambda x: x[None], (jax.tree.map(lambda x: x.sum(0), sums), total)), hidden_gradient

    if mesh is not None:
        batch = RULES["batch"]
        rows, replicated, stacked = PartitionSpec(None, batch), PartitionSpec(), PartitionSpec(batch)
        in_specs, out_specs = (rows, replicated, rows, replicated, replicated), (stacked, stacked, rows)
        of_part = _on_parts(of_part, mesh, in_specs, out_specs)
    normalizer = jnp.asarray(normalizer, jnp.float32)
    sums, total, hidden_gradient = of_part(hidden, embedding.astype(hidden.dtype), chunks, normalizer, forbidden)
    sums, total = jax.tree.map(lambda x: x.sum(0), (sums, total))
    return sums, (hidden_gradient, total)
