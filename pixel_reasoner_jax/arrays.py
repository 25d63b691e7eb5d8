"""Pytrees of arrays in a directory, with Orbax: written in chunks, and read in part and onto any devices."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from pixel_reasoner_jax.errors import CheckpointError
from pixel_reasoner_jax.files import absolute

CHUNK_BYTES = 2**26  # size of the chunks in which an array is read and written


def write_arrays(directory: str | os.PathLike, tree: Any) -> None:
    """Writes a pytree of arrays into a directory, which must not exist yet.

    Arrays are copied from the devices one by one. They are stored in chunks, so that a device reads little more than
    its shard, in files of the same size (Orbax's default is 2 GB), so that little memory waits to be written.
    """
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), tree)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(save_device_host_concurrent_gb=1)) as checkpointer:
        arguments = ocp.args.PyTreeSave(tree, save_args, ocdbt_target_data_file_size=CHUNK_BYTES)
        checkpointer.save(absolute(directory), args=arguments)


def read_arrays(directory: str | os.PathLike, target: Any, shardings: Any = None) -> Any:
    """Reads the arrays that `target` names from a directory that `write_arrays` or a run has written.

    Args:
      directory: holds the arrays.
      target: pytree of arrays or `jax.ShapeDtypeStruct`, to whose types the arrays are cast; the directory may hold
        further arrays.
      shardings: pytree like `target` with the sharding of each array; None takes the sharding of the target's array, or
        the default device if it has none.

    Raises:
      CheckpointError: an array is missing or has another shape.
    """
    directory = absolute(directory)
    if shardings is None:
        default = SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or default, target)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), target, shardings
    )
    if difference := first_difference(shapes_of(abstract), array_shapes(directory), partial=True):
        raise CheckpointError(f"{directory} does not fit: {difference}")
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    arguments = ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args, partial_restore=True)
    with _handler() as handler:
        return handler.restore(directory, args=arguments)


def array_shapes(directory: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """The shape of every array in a directory, by the array's dotted path.

    Raises:
      CheckpointError: the directory holds no arrays, or some of their files are missing.
    """
    directory = absolute(directory)
    try:
        with _handler() as handler:
            return shapes_of(handler.metadata(directory).tree)
    except FileNotFoundError as error:
        raise CheckpointError(f"there are no arrays in {directory}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the arrays in {directory} are incomplete or damaged: {error}") from error


def _handler() -> contextlib.closing[ocp.PyTreeCheckpointHandler]:
    """A handler that reads arrays. An `ocp.Checkpointer` would warn that a run's arrays alone are no checkpoint."""
    return contextlib.closing(ocp.PyTreeCheckpointHandler())


def first_difference(
    wanted: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]], partial: bool = False
) -> str | None:
    """Describes the first array that one tree lacks or has in another shape; None if there is none.

    Args:
      wanted, stored: shapes by dotted path.
      partial: `stored` may hold further arrays.
    """
    for name, shape in wanted.items():
        if name not in stored:
            return f"{name} is not in it"
        if stored[name] != shape:
            return f"{name} has shape {stored[name]} in it, but {shape} here"
    surplus = [] if partial else [name for name in stored if name not in wanted]
    return f"{surplus[0]} is in it, but not here" if surplus else None


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a pytree, by the array's dotted path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
