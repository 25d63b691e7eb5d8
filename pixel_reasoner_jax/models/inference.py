"""Parameters as a model takes them that only computes forward: in the types in which it multiplies them."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


def inference_parameters(variables: Mapping[tuple, nnx.Variable], dtype: DTypeLike) -> dict[tuple, nnx.Variable]:
    """Casts parameters to the type of the computation where that takes fewer bytes.

    A model casts its parameters whenever it uses them, so that it computes the same with these to the bit. The scales
    of norms, which it uses in float32, stay as they are.

    Args:
      variables: parameters of a model, all of them or some, by their paths.
      dtype: what the model computes in.
    """

    def cast(variable: nnx.Variable) -> nnx.Variable:
        array = variable.get_raw_value()
        narrows = jnp.dtype(dtype).itemsize < array.dtype.itemsize
        return variable.replace(array.astype(dtype)) if narrows and "norm" not in variable.axes else variable

    return {path: cast(variable) for path, variable in variables.items()}
