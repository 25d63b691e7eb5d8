"""Parameters as a model takes them that only computes forward: in the types in which it multiplies them."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from pixel_reasoner_jax.models.layers import Linear
from pixel_reasoner_jax.models.model import Qwen2_5_VL
from pixel_reasoner_jax.models.quantized import Quantized

Path = tuple[str, ...]


def inference_parameters(
    variables: Mapping[Path, nnx.Variable], dtype: DTypeLike, quantized: Mapping[Path, tuple[int, ...]]
) -> dict[Path, nnx.Variable]:
    """Casts parameters to the type of the computation where that takes fewer bytes, or rounds them to int8.

    A model casts its parameters whenever it uses them, so that it computes the same with those that have been cast, to
    the bit. The scales of norms, which it uses in float32, stay as they are.

    Args:
      variables: parameters of a model, all of them or some, by their paths.
      dtype: what the model computes in.
      quantized: the matrices that are rounded, see `decoder_matrices`.
    """

    def taken(path: Path, variable: nnx.Variable) -> nnx.Variable:
        array = variable.get_raw_value()
        if path in quantized:
            return variable.replace(Quantized.of(array, quantized[path]))
        narrows = jnp.dtype(dtype).itemsize < array.dtype.itemsize
        return variable.replace(array.astype(dtype)) if narrows and "norm" not in variable.axes else variable

    return {path: taken(path, variable) for path, variable in variables.items()}


def decoder_matrices(model: Qwen2_5_VL) -> dict[Path, tuple[int, ...]]:
    """The axes over which products sum of each matrix of the decoder, by its path.

    That are its projections and, by tokens, the embedding and the head; not the vision tower's, nor adapters'.
    """
    found: dict[Path, tuple[int, ...]] = {("language", "embedding"): (1,)}
    if model.head is not None:
        found["head",] = (1,)
    for path, module in nnx.iter_modules(model.language):
        if isinstance(module, Linear):
            first = module.kernel.ndim - len(module.kernel.axes)  # after the axis of a stack
            found["language", *path, "kernel"] = tuple(range(first, first + module.inputs))
    return found
