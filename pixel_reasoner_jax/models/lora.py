"""Low-rank adapters (LoRA; Hu et al., 2021) on the decoder's projections.

With x @ W + scale * (x @ A) @ B in place of x @ W, only A and B are trained: they and their moments are a hundredth of
the model. Nothing of W's size is computed for them. Rollouts run the adapters as they are, so that they sample from
the very policy that is trained (a merged bfloat16 W would round small changes away); `save_pretrained` merges them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.parallel.sharding import param_shardings

if TYPE_CHECKING:
    from pixel_reasoner_jax.models.layers import Linear
    from pixel_reasoner_jax.models.model import Qwen2_5_VL

TARGETS = ("query", "key", "value", "out", "gate", "up", "down")
ADAPTER = "adapter"  # in the path of every parameter of an adapter


class Adapter(nnx.Module):
    """scale * (x @ a) @ b beside a stack of `Linear` layers, in float32 whatever their type; zero to begin with.

    Attributes:
      a: [layers, *inputs, rank], uniform with variance 1 / (3 * inputs), as PEFT begins.
      b: [layers, rank, *outputs], 0.
      scale: alpha / rank.
    """

    def __init__(self, linear: Linear, rank: int, alpha: float, key: Array):
        (depth, *shape), axes = linear.kernel.shape, linear.kernel.get_metadata()["axes"]
        inputs, outputs = shape[: linear.inputs], shape[linear.inputs :]
        bound = math.prod(inputs) ** -0.5
        a = jax.random.uniform(key, (depth, *inputs, rank), jnp.float32, -bound, bound)
        self.a = nnx.Param(a, axes=(*axes[: linear.inputs], "rank"))
        self.b = nnx.Param(jnp.zeros((depth, rank, *outputs)), axes=("rank", *axes[linear.inputs :]))
        self.scale = alpha / rank

    def __call__(self, x: Array) -> Array:
        """Of one layer, inside a scan over the stack: [*batch, *inputs] to [*batch, *outputs]."""
        low = jnp.tensordot(x, self.a[...].astype(x.dtype), axes=self.a.ndim - 1)
        return self.scale * jnp.tensordot(low, self.b[...].astype(x.dtype), axes=1)


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
      ValueError: an unknown target, or none.
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


def merged(model: Qwen2_5_VL) -> dict[tuple, Any]:
    """The parameters of a model without adapters that computes the same, by path: arrays, or what is like one.

    Merging is put off until a layer is taken by its index, so that the model is not in memory twice.
    """
    flat = {path: variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    plain = {path: array for path, array in flat.items() if ADAPTER not in path}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Adapter):
            linear = path[:-1]
            kernel = plain[*linear, "kernel"]
            plain[*linear, "kernel"] = Merged(kernel, flat[*path, "a"], flat[*path, "b"], module.scale)
    return plain


@functools.partial(jax.tree_util.register_dataclass, data_fields=["kernel", "a", "b"], meta_fields=["scale"])
@dataclasses.dataclass(frozen=True)
class Merged:
    """A stack of kernels with the adapters' a and b of its layers; of a layer, kernel + scale * a @ b."""

    kernel: Array
    a: Array
    b: Array
    scale: float

    @property
    def dtype(self) -> jnp.dtype:
        return self.kernel.dtype

    def __getitem__(self, layer: int) -> Array:
        kernel = self.kernel[layer].astype(jnp.float32)
        return (kernel + self.scale * jnp.tensordot(self.a[layer], self.b[layer], axes=1)).astype(self.dtype)
