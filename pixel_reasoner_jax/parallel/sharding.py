"""How arrays are sharded: one table maps the logical names of their axes to the axes of the mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from pixel_reasoner_jax.parallel.mesh import MeshError

Axes = tuple[str | None, ...]
Rules = Mapping[str, tuple[str, ...]]

# The axes of parameters: `embed` is the model's width, which every matrix has once, so that fsdp shards all of them;
# tensor splits heads, the MLP's inner width and the vocabulary (columns and rows of Shoeybi et al. 2019, Megatron-LM).
# `sequence` is the token axis of the activations between layers. An axis not named here is not sharded.
RULES: Rules = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "sequence": ("tensor",),
}

# The same for parameters that have been all-gathered over fsdp.
GATHERED = RULES | {"embed": ()}

# The same for parameters that all devices share, which only lie there: no part of the mesh has a second copy.
SPREAD = dict.fromkeys(RULES, ()) | {"embed": ("data", "fsdp", "tensor")}

# And for what lies between these and `RULES`: divided by tensor, and shared by the devices with the same place in it.
SHARED = RULES | {"embed": ("data", "fsdp")}

# The axis of rows in arrays of a batch where it is not the first, by the array's name: positions are [3, rows, ...].
BATCH_AXIS = {"positions": 1}


def sharding(axes: Axes, shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
    """The sharding of an array.

    Args:
      axes: logical name of each axis. If they are fewer than the array's axes, these begin with stacks of layers.
      shape: shape of the array. A mesh axis that does not divide the array's axis is left out, so that the array is
        replicated along it: a batch of three on two devices, or an odd vocabulary. `check_sizes` refuses this for all
        other axes of parameters.
      mesh: the mesh to shard over.
      rules: the mesh axes for each logical name.
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
    """Checks that a mesh divides a model's parameters; those that it does not divide would be replicated.

    Args:
      sizes: for each logical name, the sizes of the model's axes that have it, by their key in config.json.
      shape: sizes of the mesh's axes, by name.

    Raises:
      MeshError: an axis of the mesh does not divide one of the sizes; the message names both, and what would fit.
    """
    for axis, count in shape.items():
        divided = {key: size for name, named in sizes.items() if axis in RULES[name] for key, size in named.items()}
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

    def sharding_of(leaf):
        if isinstance(leaf, nnx.Variable):
            axes = leaf.get_metadata().get("axes", ())
            return leaf.replace(jax.tree.map(lambda x: sharding(axes, x.shape, mesh, rules), leaf.get_raw_value()))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(sharding_of, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def batch_axis(path: tuple) -> int:
    """The axis of rows, over which an array of a batch is sharded; `path` is the array's path in the batch's tree."""
    return BATCH_AXIS.get(getattr(path[-1], "key", None), 0) if path else 0


def parts(mesh: Mesh | None) -> int:
    """The number of parts that batches are sharded into: all devices of a part hold the same rows."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in RULES["batch"])


def map_parts(function: Callable, mesh: Mesh | None, axes: Sequence[Axes], like: int | Sequence[int]) -> Callable:
    """Wraps a function so that every device applies it to its shards of the arguments, without communication.

    This is for functions that index into a sharded axis with numbers that count within the part. Without it, the
    compiler would all-gather the axis on every device.

    Args:
      function: takes and returns arrays or trees of arrays.
      mesh: None returns the function as it is.
      axes: logical names of the leading axes of each argument, the same for all arrays of a tree.
      like: the index of an argument that all results are sharded like, or such an index for each result.
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


def constrain(x: Array, axes: Axes, mesh: Mesh | None, rules: Rules = RULES) -> Array:
    """Constrains an intermediate value to a `sharding`: the compiler may not shard its width in place of its batch."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, sharding(axes, x.shape, mesh, rules))
