"""The update that instruction tuning and GRPO share: gradients accumulate over micro-batches, then one step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models.layers import ADAPTER
from pixel_reasoner_jax.models.lora import has_adapters
from pixel_reasoner_jax.parallel import all_gather, local_rows, param_shardings, parts, shard_rows
from pixel_reasoner_jax.parallel.sharding import RULES
from pixel_reasoner_jax.training.packing import Batch
from pixel_reasoner_jax.training.token_loss import token_loss, token_scores

Metrics = dict[str, Array]

DETAILS = ("target_mask", "advantages", "logprobs")  # arrays of a batch that every loss takes
INPUTS = ("tokens", "positions", "segment_ids", "vision_index", "vision", "targets", "temperatures")  # and the model
ROWS = PartitionSpec(RULES["batch"])  # how a mesh shards the rows of a batch


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["trainable", "master", "frozen", "optimizer", "step"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The parameters, and the state that an update changes with them.

    Attributes:
      trainable, frozen: disjoint parts of the model's parameters; the frozen ones have no gradient and no optimizer
        state.
      master: float32 copies of the trainable parameters, of which these are roundings to their type; None: there are
        no copies, and updates are added to the trainable parameters.
      optimizer: optax state for the trainable parameters, in float32.
      step: int32, number of updates made.
    """

    trainable: Any
    master: Any
    frozen: Any
    optimizer: Any
    step: Array

    @property
    def params(self) -> nnx.State:
        """All parameters, as `nnx.merge` with the model's graph definition takes them."""
        return nnx.merge_state(self.trainable, self.frozen)


class GradientError(UserError, FloatingPointError):
    """A gradient that is not finite; the message says which settings help."""


class Trainer:
    """Compiles the update for one model and one loss.

    Args:
      model: a `models.Qwen2_5_VL`; `init` starts from its parameters, and batches are sharded over its mesh.
      optimizer: an optax transformation.
      loss: see `token_loss`; its details are the batch's `target_mask`, `advantages` and `logprobs`, and `details`.
      forbidden: bool [vocab], tokens left out of the distribution, or None.
      freeze_vision: train the decoder alone. In a model with adapters (`models.lora`), the adapters alone are trained.
      details: names of further arrays [rows, K] of the batch that the loss takes.
      entropy_gradient: whether the loss has a gradient by the entropy.
      master_weights: add updates to float32 copies of parameters of another type, which a small update would otherwise
        leave unchanged by rounding.

    The updated state replaces the old one, whose buffers are donated: do not use it again. `accumulate` and `apply` are
    the compiled functions of which `update` is made. The model may be abstract (`nnx.eval_shape`) if these are only
    compiled, and `init` is only evaluated for its shapes.
    """

    def __init__(
        self,
        model: Any,
        optimizer: optax.GradientTransformation,
        loss: Callable[..., tuple[Array, Metrics]],
        *,
        forbidden: np.ndarray | None = None,
        freeze_vision: bool = False,
        master_weights: bool = False,
        details: Sequence[str] = (),
        entropy_gradient: bool = False,
    ):
        graphdef = nnx.graphdef(model)
        mesh = model.mesh
        self._model, self._mesh = model, mesh
        self._is_frozen = nnx.PathContains("vision") if freeze_vision else nnx.Nothing()
        if has_adapters(model):
            self._is_frozen = nnx.Not(nnx.PathContains(ADAPTER))
        self._optimizer, self._master_weights = optimizer, master_weights
        self.details = (*DETAILS, *details)

        def hidden_and_targets(params, batch):
            """The model, the hidden states that predict the trained tokens, and the ids of these tokens."""
            model = nnx.merge(graphdef, params)
            embeddings = None if batch["vision"] is None else model.encode_vision(batch["vision"])
            if embeddings is not None:
                embeddings = embeddings.reshape(parts(mesh), -1, embeddings.shape[-1])
            embedded = model.embed(batch["tokens"], batch["vision_index"], embeddings)
            hidden = model.hidden_states(embedded, batch["positions"], batch["segment_ids"])
            # Logits are computed for trained tokens alone; the hidden state of token t - 1 predicts token t.
            targets = batch["targets"]
            hidden = jnp.take_along_axis(hidden, targets[..., None] - 1, axis=1)
            return hidden, model.output_embedding(), jnp.take_along_axis(batch["tokens"], targets, axis=1)

        def micro_loss(trainable, frozen, batch, normalizer):
            return token_loss(
                loss,
                *hidden_and_targets(nnx.merge_state(trainable, frozen), batch),
                {name: batch[name] for name in self.details},
                normalizer,
                temperature=batch["temperatures"],
                forbidden=forbidden,
                mesh=mesh,
                entropy_gradient=entropy_gradient,
            )

        @functools.partial(jax.jit, out_shardings=None if mesh is None else NamedSharding(mesh, ROWS))
        def score_rows(params, batch):
            logprobs, entropy = token_scores(
                *hidden_and_targets(params, batch), temperature=batch["temperatures"], forbidden=forbidden, mesh=mesh
            )
            return {"logprobs": logprobs, "entropy": entropy}

        @functools.partial(jax.jit, donate_argnums=(2,))
        def accumulate(trainable, frozen, gradients, batch, normalizer):
            (_, metrics), new = jax.value_and_grad(micro_loss, has_aux=True)(trainable, frozen, batch, normalizer)
            # Accumulated in float32 whatever the parameters' type, since the summands are many and small.
            new = jax.tree.map(lambda g: g.astype(jnp.float32), new)
            if mesh is not None:  # each device accumulates the shard that it has of the parameters
                new = jax.lax.with_sharding_constraint(new, param_shardings(new, mesh))
            return new if gradients is None else jax.tree.map(jnp.add, gradients, new), metrics

        @functools.partial(jax.jit, donate_argnums=(0,))
        def apply(state: TrainState, gradients, learning_rate):
            weights = state.trainable if state.master is None else state.master
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, weights)
            updates = jax.tree.map(lambda update: learning_rate.astype(update.dtype) * update, updates)
            weights = optax.apply_updates(weights, updates)
            trainable = jax.tree.map(lambda new, old: new.astype(old.dtype), weights, state.trainable)
            master = None if state.master is None else weights
            state = TrainState(trainable, master, state.frozen, optimizer_state, state.step + 1)
            return state, optax.tree.norm(gradients)

        self.accumulate, self.apply, self.score_rows = accumulate, apply, score_rows

    def init(self, params: nnx.State | None = None) -> TrainState:
        """The state before the first update, with `params`; None takes the model's present parameters."""
        params = nnx.state(self._model) if params is None else params
        frozen, trainable = nnx.split_state(params, self._is_frozen, ...)

        rounded = any(leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(trainable))

        def start(trainable):
            weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), trainable)
            master = weights if self._master_weights and rounded else None
            return master, self._optimizer.init(weights), jnp.zeros((), jnp.int32)

        # Moments do not depend on the parameters' values, so without these shardings they would all be on one device.
        shardings = None if self._mesh is None else param_shardings(jax.eval_shape(start, trainable), self._mesh)
        master, optimizer, step = jax.jit(start, out_shardings=shardings)(trainable)
        return TrainState(trainable, master, frozen, optimizer, step)

    def score(self, params: nnx.State, batches: Iterable[Batch]) -> list[dict[str, np.ndarray]]:
        """Computes log-probabilities and entropies of the trained tokens, forward only, as `update` does.

        All processes call this together. It is compiled when it is first used.

        Args:
          params: of the model, all of them: `TrainState.params`, or others of the same form.
          batches: see `update`.

        Returns:
          For each batch {"logprobs", "entropy"}: float32 [rows of this process, K] in nats, of the distribution that
          the tokens are trained under (their temperatures, no forbidden tokens). Padding has some value.
        """
        scores = [self.score_rows(params, shard_rows({n: batch[n] for n in INPUTS}, self._mesh)) for batch in batches]
        return [local_rows(one) for one in scores]

    def update(
        self, state: TrainState, batches: Iterable[Batch], learning_rate: float = 1.0
    ) -> tuple[TrainState, dict[str, float]]:
        """Makes one optimizer step on all of `batches` together. All processes call this together.

        Args:
          state: its buffers are donated if there is a step to make.
          batches: see `packing.pack`; on a mesh, those rows that this process's parts hold (see
            `VirtualShards.agree_on_shapes`). Their `vision_index` counts merged tokens within the part of the row.
          learning_rate: multiplies the optimizer's update.

        Returns:
          The new state and the loss's diagnostics as token means over all batches, with `gradient_norm` (before
          clipping), `learning_rate` and `tokens` (trained tokens of all processes). Where no process has a token that
          is trained, all return the state as it is and no diagnostics.

        Raises:
          GradientError: the gradient is not finite.
        """
        batches = list(batches)
        normalizer = float(all_gather(np.float32(sum(batch["target_mask"].sum() for batch in batches))).sum())
        if normalizer == 0:
            return state, {}
        gradients, diagnostics = None, []
        for batch in batches:
            batch = shard_rows({name: batch[name] for name in (*INPUTS, *self.details)}, self._mesh)
            gradients, metrics = self.accumulate(
                state.trainable, state.frozen, gradients, batch, np.float32(normalizer)
            )
            diagnostics.append(metrics)
        state, norm = self.apply(state, gradients, np.float32(learning_rate))
        if not np.isfinite(norm):
            raise GradientError(
                f"the gradient of update {int(state.step) - 1} is not finite; resume from the last checkpoint with"
                " a lower optimizer.learning_rate or tighter optimizer.clip_norm"
            )
        summed = jax.tree.map(lambda *values: float(np.sum(values)), *jax.device_get(diagnostics))
        return state, {
            **summed,
            "gradient_norm": float(norm),
            "learning_rate": float(learning_rate),
            "tokens": normalizer,
        }
