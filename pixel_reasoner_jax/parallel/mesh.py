"""The mesh of devices. Its axes: `data` (replicas), `fsdp` (shards of parameters), `tensor` (splits of each layer)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from pixel_reasoner_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


class MeshError(UserError):
    """A mesh that devices cannot form or a model cannot use; the message names the wrong size and what would fit."""


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices in a mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
      shape: size of each axis. An axis left out has size 1; one axis may be -1, for all remaining devices.
      devices: the devices of the mesh, all of which are used; None: all devices of the program.

    Raises:
      MeshError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    return _arrange(_sizes(shape, devices), devices)


def regroup(mesh: Mesh, shape: Mapping[str, int]) -> Mesh:
    """The devices of a mesh in another shape, those of a tensor group in one process.

    Args:
      mesh: whose devices stay where they are if the groups of its tensor axis remain whole or are divided.
      shape: see `make_mesh`. Left out, data takes the devices that are left, and tensor is that of the mesh; so it is
        where it is 0.

    Raises:
      MeshError: see `make_mesh`; or the devices of a tensor group belong to several processes.
    """
    devices = list(mesh.devices.flat)
    tensor = shape.get("tensor") or mesh.shape["tensor"]
    sizes = _sizes({"data": -1, **shape, "tensor": tensor}, devices)
    if mesh.shape["tensor"] % sizes["tensor"]:
        found = _arrange(sizes, devices)
    else:
        found = Mesh(mesh.devices.reshape(tuple(sizes.values())), AXES, axis_types=mesh.axis_types)
    check_groups(found)
    return mesh if found == mesh else found


def check_groups(mesh: Mesh) -> None:
    """Checks that the devices of each tensor group belong to one process: processes feed different rows.

    Raises:
      MeshError: they do not; the message says what would.
    """
    groups = mesh.devices.reshape(-1, mesh.shape["tensor"])
    if any(len({device.process_index for device in group}) > 1 for group in groups):
        local = mesh.size // len({device.process_index for device in mesh.devices.flat})
        raise MeshError(
            f"mesh: tensor={mesh.shape['tensor']} spans several processes, which have {local} devices each: tensor must"
            f" be a divisor of {local}"
        )


def _sizes(shape: Mapping[str, int], devices: Sequence[jax.Device]) -> dict[str, int]:
    """The size of every axis; see `make_mesh`."""
    if unknown := sorted(set(shape) - set(AXES)):
        raise MeshError(f"mesh has no axis {unknown[0]!r}; its axes are {', '.join(AXES)}")
    sizes = {axis: int(shape.get(axis, 1)) for axis in AXES}
    asked = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            raise MeshError(f"mesh {asked}: {axis} must be a positive number, or -1 to take the devices left")
    filled = [axis for axis in AXES if sizes[axis] == -1]
    if len(filled) > 1:
        raise MeshError(f"mesh {asked}: {' and '.join(filled)} are both -1; only one axis can take what is left")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if filled and len(devices) % fixed == 0:
        sizes[filled[0]] = len(devices) // fixed
    elif fixed != len(devices) or filled:
        takes = f"a multiple of {fixed}" if filled else fixed
        advice = _advice(sizes, len(devices))
        raise MeshError(f"mesh {asked} takes {takes} devices, but there are {len(devices)}: {advice}")
    return sizes


def _arrange(sizes: dict[str, int], devices: Sequence[jax.Device]) -> Mesh:
    """Lays the mesh's axes along the links between devices, but keeps each tensor axis on one host if it fits there.

    The hosts of a torus have 2 x 2 chips: a line of four chips along a link would take two of each of two hosts.
    """
    shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(AXES)
    processes = {device.process_index for device in devices}
    tensor_on_one_host = len(processes) > 1 and len(devices) // len(processes) % sizes["tensor"] == 0
    try:
        mesh = jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # JAX cannot lay these axes along the torus
        if not tensor_on_one_host:
            raise
    else:
        rows = mesh.devices.reshape(-1, sizes["tensor"])
        if not tensor_on_one_host or all(len({device.process_index for device in row}) == 1 for row in rows):
            return mesh
    in_order = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(in_order).reshape(shape), AXES, axis_types=types)


def _advice(sizes: dict[str, int], count: int) -> str:
    """Names the axes whose size alone can be changed so that the mesh fits `count` devices, and to which sizes."""
    changes = []
    for axis, size in sizes.items():
        others = math.prod(s for a, s in sizes.items() if a != axis and s != -1)
        if size != -1 and count % others == 0:
            fitting = [n for n in range(1, count // others + 1) if (count // others) % n == 0]
            if -1 not in sizes.values():
                fitting = fitting[-1:]
            changes.append(f"{axis} could be {' or '.join(map(str, fitting))}")
    return "; ".join(changes) or f"the sizes must be divisors of {count} that multiply to it"
