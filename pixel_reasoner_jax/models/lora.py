"""Low-rank adapters (LoRA; Hu et al., 2021) on the decoder's projections.

With x @ W + scale * (x @ A) @ B in place of x @ W, only A and B are trained: they and their moments are a hundredth of
the model. Nothing of W's size is computed for them. Rollouts run the adapters as they are, so that they sample from
the very policy that is trained (a merged bfloat16 W would round small changes away); `save_pretrained` merges them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from pixel_reasoner_jax.config_values import LORA_TARGETS as TARGETS
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models.layers import ADAPTER, Adapter
from pixel_reasoner_jax.models.model import Qwen2_5_VL
from pixel_reasoner_jax.parallel.sharding import param_shardings


def add_adapters(
    model: Qwen2_5_VL, rank: int, alpha: float, targets: Sequence[str] = TARGETS, seed: int = 0
) -> Qwen2_5_VL:
    """Gives projections of every decoder layer an adapter, on the model's mesh; changes no output yet.

    Args:
      model: is changed, and returned.
      rank: of the adapters; 0 adds none.
      alpha: their outputs are multiplied by alpha / rank.
      targets: names out of `TARGETS`.
      seed: of their parameters.

    Raises:
      UserError: an unknown target, or none.
    """
    if unknown := sorted(set(targets) - set(TARGETS)):
        raise UserError(f"lora.targets has {unknown[0]!r}; the decoder's projections are {', '.join(TARGETS)}")
    if rank and not targets:
        raise UserError(f"lora.targets is empty: name projections, out of {', '.join(TARGETS)}")
    layers = model.language.layers
    for number, name in enumerate(TARGETS):
        if rank and name in targets:
            linear = getattr(layers if hasattr(layers, name) else layers.mlp, name)
            key = jax.random.fold_in(jax.random.key(seed), number)
            linear.adapter = Adapter(linear, rank, alpha, key)
    if model.mesh is not None:
        adapters, _ = nnx.split_state(nnx.state(model, nnx.Param), nnx.PathContains(ADAPTER), ...)
        nnx.update(model, jax.device_put(adapters, param_shardings(adapters, model.mesh)))
    return model


def has_adapters(model: Qwen2_5_VL) -> bool:
    return any(ADAPTER in path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)))
