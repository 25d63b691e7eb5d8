"""Our side of the training benchmark: the update as the two phases make it."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks.train_work import Work
from pixel_reasoner_jax.buckets import vision_row
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.plan.flops import count_flops
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training import rl, sft
from pixel_reasoner_jax.training.packing import Batch, build, smallest_shape
from pixel_reasoner_jax.training.token_loss import token_loss


class Own:
    """One side of the comparison; every call of `update` changes the parameters.

    Args:
      work: what to train on.
      phase: "sft" or "grpo".
      dtype: of parameters and computation.
      remat: see `Qwen2_5_VL`.
    """

    def __init__(self, work: Work, phase: str, *, dtype: str = "float32", remat: str = "none"):
        model = Qwen2_5_VL.from_pretrained(work.directory, dtype, remat=remat)
        config = experiment(phase)
        config.optimizer.update(work.optimizer)
        if phase == "sft":
            self._trainer = sft.make_trainer(config, model)
        else:
            self._trainer = rl.make_trainer(config, model, np.zeros(model.config.vocab_size, bool))
        self._learning_rate = config.optimizer.learning_rate
        self._batch = batch(work)
        self._params, self._state = nnx.state(model), None

    def update(self) -> tuple[float, float]:
        """Forward, backward, clip and step; the loss and the gradient's norm before clipping."""
        if self._state is None:
            self._state, self._params = self._trainer.init(self._params), None
        self._state, metrics = self._trainer.update(self._state, [self._batch], self._learning_rate)
        jax.block_until_ready(self._state)
        return metrics["loss"], metrics["gradient_norm"]

    def device_bytes(self) -> int:
        """The most that was allocated on a GPU; 0 on a CPU."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

    def device(self) -> str:
        """As JAX names it."""
        return jax.devices()[0].device_kind


def experiment(phase: str) -> ConfigDict:
    """The paper's, with the vision tower trained."""
    config = load_config({"sft": "sft_qwen2_5_vl_7b", "grpo": "rl_qwen2_5_vl_7b"}[phase])
    config.train.freeze_vision = False
    return config


def batch(work: Work) -> Batch:
    """The work as training packs it, here a trajectory a row."""
    processor = Processor.from_pretrained(work.directory)
    rows = [[sequence] for sequence in work.sequences]
    media = [item for sequence in work.sequences for item in sequence.media]
    row_length, patches = len(work.sequences[0].tokens), vision_row(media, processor.geometry)
    shape = smallest_shape(rows, processor, len(rows), row_length, patches)
    return build(rows, processor, len(rows), shape)


def model_flops(work: Work, config: Config) -> float:
    """Floating-point operations that an update's matrix products need, in the usual way of counting: three times those
    of the forward pass, where only trained tokens meet the vocabulary and attention computes the scores that ours does;
    nothing that is computed again."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Qwen2_5_VL(config, rngs=nnx.Rngs(0))))

    def forward(params, batch):
        model = nnx.merge(graph, params)
        embedded = model.embed(batch["tokens"], batch["vision_index"], model.encode_vision(batch["vision"]))
        hidden = model.hidden_states(embedded, batch["positions"], batch["segment_ids"])
        targets = batch["targets"]
        hidden = hidden[:, : targets.shape[1]]
        return token_loss(lambda logprobs, *_: (logprobs.sum(), {}), hidden, model.output_embedding(), targets, {}, 1.0)

    return 3 * count_flops(jax.jit(forward).trace(params, batch(work)).jaxpr).products
