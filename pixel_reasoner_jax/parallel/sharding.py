"""What lies where: one table from the logical names of axes to the mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from pixel_reasoner_jax.parallel.mesh import MeshError

Axes = tuple[str | None, ...]
Rules = Mapping[str, tuple[str, ...]]

# Of parameters: `embed` is the width that every matrix has once, so that fsdp splits them all; tensor splits heads,
# the MLP's inner width and the vocabulary (Megatron's columns and rows). `sequence` are the tokens of what lies between
# layers. Axes not named here are whole everywhere.
RULES: Rules = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "sequence": ("tensor",),
}

# The same for parameters that have been gathered over fsdp.
GATHERED = RULES | {"embed": ()}

# Batches: the axis over which each array's rows are dealt out; see the packages that make them.
BATCH_AXIS = {"positions": 1}


def sharding(axes: Axes, shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
    """Where an array lies.

    Args:
      axes: logical name of each axis; if there is one fewer than dimensions, the first is a stack of layers.
      shape: of the array. A mesh axis that does not divide the array's is left out, so that the array is whole along
        it: a batch of three on two devices, or an odd vocabulary. No other axis of parameters: see `check_sizes`.
    """
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
    spec = []
    for name, size in zip(axes, shape, strict=True):
        names = rules.get(name, ())
        while names and size % math.prod(mesh.shape[axis] for axis in names):
            names = names[:-1]
        spec.append(names or None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def check_sizes(sizes: Mapping[str, Mapping[str, int]], shape: Mapping[str, int]) -> None:
    """Refuses a mesh that does not divide a model's parameters: they would be whole on devices that should share them.

    Args:
      sizes: for logical names of axes, the sizes of axes that have them, each by the name its user knows.
      shape: of the mesh, by axis.

    Raises:
      MeshError: an axis of the mesh does not divide one of them; the message says which, and what would fit.
    """
    for axis, count in shape.items():
        divided = {key: size for name, by in sizes.items() if axis in RULES[name] for key, size in by.items()}
        if wrong := [f"{key} {size}" for key, size in divided.items() if size % count]:
            most = math.gcd(*divided.values())
            fitting = " or ".join(str(n) for n in range(1, most + 1) if most % n == 0)
            raise MeshError(
                f"mesh: {axis}={count} does not divide this model's {' and '.join(wrong)}: {axis} could be {fitting}"
            )


def param_shardings(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """The same tree with a `NamedSharding` for each array, as `jax.jit` and `jax.device_put` take it.

    Works on `nnx.split`'s parameters, on optimizer states made of them, and on their abstract values. A parameter
    carries the logical names of its axes as metadata `axes`; any other leaf is replicated.
    """

    def place(leaf):
        if isinstance(leaf, nnx.Variable):
            axes = leaf.get_metadata().get("axes", ())
            return leaf.replace(sharding(axes, leaf.shape, mesh, rules))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(place, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def gather_over_fsdp(params: Any, mesh: Mesh | None, dtype: DTypeLike) -> Any:
    """Parameters for a function that goes through all of them many times: what is dealt out over fsdp is gathered once,
    in the type of the matrix products, where it takes its size divided by tensor on every device.

    Args:
      params: see `param_shardings`; those that fsdp does not divide stay as they are.
      mesh: None, or one whose fsdp is 1: all stay as they are.
      dtype: of matrix products.
    """
    if mesh is None or mesh.shape["fsdp"] == 1:
        return params

    def gather(leaf, here, there):
        return leaf if here == there else jax.lax.with_sharding_constraint(leaf.astype(dtype), there)

    return jax.tree.map(gather, params, param_shardings(params, mesh), param_shardings(params, mesh, GATHERED))


def batch_axis(path: tuple) -> int:
    """The axis over which an array of a batch is dealt out, by its path in the batch's tree."""
    return BATCH_AXIS.get(getattr(path[-1], "key", None), 0) if path else 0


def parts(mesh: Mesh | None) -> int:
    """How many parts batches are dealt out in: the devices of a part hold the same rows."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in RULES["batch"])


def map_parts(function: Callable, mesh: Mesh | None, axes: Sequence[Axes], like: int | Sequence[int]) -> Callable:
    """Has every device run a function on its own parts of the arguments, without a word to the others.

    For what indexes into an axis that is dealt out, with numbers that count within the part: left to itself, the
    compiler would gather the whole of it everywhere.

    Args:
      function: of arrays or trees of arrays.
      mesh: None: the function as it is.
      axes: logical names of the leading axes of each argument, the same for all arrays of a tree.
      like: the arguments that the results lie like: the number of one, or of one for each result.
    """
    if mesh is None:
        return function

    def spec(names: Axes, leaf: Array) -> PartitionSpec:
        return sharding((*names, *(None,) * (leaf.ndim - len(names))), leaf.shape, mesh).spec

    def call(*arguments):
        inputs = tuple(
            jax.tree.map(lambda leaf, names=names: spec(names, leaf), argument)
            for names, argument in zip(axes, arguments, strict=True)
        )
        outputs = inputs[like] if isinstance(like, int) else tuple(inputs[number] for number in like)
        return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)(*arguments)

    return call


def constrain(x: Array, axes: Axes, mesh: Mesh | None) -> Array:
    """Holds an intermediate value to its place, so that the compiler does not trade batch for width; see `sharding`."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, sharding(axes, x.shape, mesh))
