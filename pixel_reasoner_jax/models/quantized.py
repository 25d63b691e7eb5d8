"""Matrices in int8: half the bytes of bfloat16, which decoding, bound by what it reads, takes about half the time for.

Rounded by their largest value to the nearest of 255, each output channel by itself. Products are of the rounded
values, which every type of a computation holds exactly, and are scaled when they are summed: nothing but the rounding
itself is lost. There is no gradient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int8

LARGEST = 127


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values", "scale"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Quantized:
    """A matrix, or a stack of matrices: `values` times `scale`.

    Attributes:
      values: of the matrix's shape.
      scale: of each output channel; its axes are the matrix's, of size 1 where products sum over them.
    """

    values: Int8[Array, "*shape"]
    scale: Float[Array, "*channels"]

    @classmethod
    def of(cls, matrix: Float[Array, "*shape"], summed: Sequence[int]) -> Quantized:
        """Rounds a matrix, over whose axes `summed` products sum. Each value is at most scale / 2 away."""
        matrix = matrix.astype(jnp.float32)
        largest = jnp.max(jnp.abs(matrix), axis=tuple(summed), keepdims=True)
        scale = jnp.where(largest > 0, largest, 1.0) / LARGEST
        return cls(jnp.round(matrix / scale).astype(jnp.int8), scale)

    def __getitem__(self, index) -> Quantized | Float[Array, "*selected"]:
        """Itself, for `...`, which is how a parameter is read; or entries along the first axis, in float32."""
        return self if index is Ellipsis else self.values[index] * self.scale[index]

    def product(self, x: Float[Array, "*inputs"], summed: Sequence[int], dtype: DTypeLike) -> Float[Array, "*outputs"]:
        """Sums over the last axes of x, and over the axes `summed` of one matrix; sums and results are of `dtype`."""
        last = range(x.ndim - len(summed), x.ndim)
        values = self.values.astype(x.dtype)  # as they are read: a compiler makes it a part of the product
        y = jnp.tensordot(x, values, axes=(tuple(last), tuple(summed)), preferred_element_type=dtype)
        scale = self.scale.reshape([size for axis, size in enumerate(values.shape) if axis not in summed])
        return (y * scale).astype(dtype)
