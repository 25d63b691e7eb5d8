"""Processes that run one program in step: which parts of the mesh are whose, and what all must agree on."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.parallel.mesh import MeshError
from pixel_reasoner_jax.parallel.sharding import RULES, batch_axis, parts

HEARTBEAT_SECONDS = 30  # a process that is not heard of for so long is given up, and with it the run
SHUTDOWN_SECONDS = 30


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process with the others of its run; before anything else is asked of JAX.

    Args:
      coordinator: host:port of process 0.
      processes: how many there are.
      process: number of this one. What is None is read from the environment of a TPU slice, Slurm, Kubernetes or
        Open MPI.

    Raises:
      ValueError: the environment does not say it either.
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
    """Whether this process is the one that writes what all would write the same."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here, where it says the same."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def is_shared(mesh: Mesh | None) -> bool:
    """Whether several processes have devices of a mesh."""
    return mesh is not None and len({device.process_index for device in mesh.devices.flat}) > 1


def local_parts(mesh: Mesh | None) -> tuple[int, ...]:
    """Numbers of the parts of the mesh (see `parts`) that this process feeds, ascending.

    Raises:
      MeshError: the devices of a part belong to several processes, which could not feed it the same.
    """
    if mesh is None:
        return (0,)
    owners = [{device.process_index for device in part} for part in mesh.devices.reshape(parts(mesh), -1)]
    if any(len(owner) > 1 for owner in owners):
        local = mesh.size // len(set().union(*owners))
        raise MeshError(
            f"mesh: tensor={mesh.shape['tensor']} spans several processes, which have {local} devices each: tensor must"
            f" be a divisor of {local}"
        )
    return tuple(number for number, owner in enumerate(owners) if owner == {jax.process_index()})


def shard_rows(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays whose rows are those of this process's parts, in order, as the rows of all processes together.

    Rows are the first axis, or that of `sharding.batch_axis`.

    Returns:
      The tree with global arrays, dealt out over the mesh; as it is without a mesh.
    """
    if mesh is None:
        return tree

    def place(path, rows):
        spec = PartitionSpec(*(None,) * batch_axis(path), RULES["batch"])
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), rows)

    return jax.tree_util.tree_map_with_path(place, tree)


def local_rows(tree: Any) -> Any:
    """The other way: of arrays whose rows are dealt out, this process's, as numpy arrays; waits for them."""

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
    """An array however it lies, as numpy; all processes ask together."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def all_gather(values: np.ndarray) -> np.ndarray:
    """[processes, ...]: what each process gave, of one shape and type; all must call it, in the same order."""
    if jax.process_count() == 1:
        return np.asarray(values)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(values)))


def all_gather_json(value: Any) -> list[Any]:
    """What each process gave, anything that JSON holds; all must call it, in the same order."""
    text = json.dumps(value).encode()
    lengths = all_gather(np.array(len(text), np.int32))
    padded = np.frombuffer(text.ljust(int(lengths.max())), np.uint8)
    return [json.loads(row[:length].tobytes()) for row, length in zip(all_gather(padded), lengths, strict=True)]
