"""Processes that run one program in step: which parts of the mesh each feeds, and how they exchange values."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.parallel.mesh import check_groups
from pixel_reasoner_jax.parallel.sharding import RULES, batch_axis, parts

HEARTBEAT_SECONDS = 30  # the run ends when a process has sent no heartbeat for this long
SHUTDOWN_SECONDS = 30  # how long a process that has ended waits for the others


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process with the others of its run. To be called before any other use of JAX.

    Arguments that are None are read from the environment of a TPU slice, Slurm, Kubernetes or Open MPI.

    Args:
      coordinator: host:port of process 0.
      processes: number of processes.
      process: number of this process, from 0.

    Raises:
      UserError: an argument is None and the environment does not tell it.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"cannot join the other processes: {error} No TPU slice, Slurm, Kubernetes or Open MPI says it here: give"
            " --coordinator HOST:PORT, --processes N and --process NUMBER"
        ) from error


def is_main() -> bool:
    """Whether this process writes the files that are the same for all processes: process 0 does."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has called this; `name` must be the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_shared(mesh: Mesh | None) -> bool:
    """Whether the devices of a mesh belong to several processes."""
    return mesh is not None and len({device.process_index for device in mesh.devices.flat}) > 1


def local_parts(mesh: Mesh | None) -> tuple[int, ...]:
    """Numbers of the parts of the mesh (see `parts`) whose devices belong to this process, ascending.

    Raises:
      MeshError: the devices of a part belong to several processes, which feed different rows.
    """
    if mesh is None:
        return (0,)
    check_groups(mesh)
    owners = [part[0].process_index for part in mesh.devices.reshape(parts(mesh), -1)]
    return tuple(number for number, owner in enumerate(owners) if owner == jax.process_index())


def shard_rows(tree: Any, mesh: Mesh | None) -> Any:
    """Makes global arrays, sharded over the mesh, of the rows that each process holds.

    Args:
      tree: numpy arrays with the rows of this process's parts of the mesh, in order. `sharding.batch_axis` tells which
        axis is that of rows.
      mesh: None leaves the tree as it is.
    """
    if mesh is None:
        return tree

    def shard(path, rows):
        spec = PartitionSpec(*(None,) * batch_axis(path), RULES["batch"])
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), rows)

    return jax.tree_util.tree_map_with_path(shard, tree)


def local_rows(tree: Any) -> Any:
    """The rows of this process's parts, as numpy arrays, of arrays that are sharded over their first axis.

    Waits until the arrays are computed.
    """

    def rows(array: jax.Array) -> np.ndarray:
        if array.is_fully_addressable:
            return np.asarray(array)
        # The devices of a part hold the same rows.
        held = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
        return np.concatenate([np.asarray(held[start]) for start in sorted(held)])

    leaves = jax.tree.leaves(tree)
    for leaf in leaves:
        leaf.copy_to_host_async()
    return jax.tree.map(rows, tree)


def to_host(array: jax.Array) -> np.ndarray:
    """The global array as a numpy array, whatever its sharding; all processes call this together."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def all_gather(values: np.ndarray) -> np.ndarray:
    """The values of all processes, [processes, ...].

    All processes must call this in the same order, with values of the same shape and type.
    """
    values = np.asarray(values)
    if jax.process_count() == 1:
        return values[None]
    if values.dtype.itemsize <= 4:
        return np.asarray(multihost_utils.process_allgather(values))
    # JAX would cut 64 bits to 32: of a device's free bytes, the upper half would be lost.
    gathered = np.asarray(multihost_utils.process_allgather(np.frombuffer(values.tobytes(), np.uint8)))
    return np.frombuffer(gathered.tobytes(), values.dtype).reshape(-1, *values.shape)


def all_gather_json(value: Any) -> list[Any]:
    """The values of all processes, by process number; any value that JSON can hold.

    All processes must call this in the same order.
    """
    text = json.dumps(value).encode()
    lengths = all_gather(np.array(len(text), np.int32))
    padded = np.frombuffer(text.ljust(int(lengths.max())), np.uint8)
    return [json.loads(row[:length].tobytes()) for row, length in zip(all_gather(padded), lengths, strict=True)]
