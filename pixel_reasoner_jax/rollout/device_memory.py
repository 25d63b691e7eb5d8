"""How much memory the devices of this process have left."""

from __future__ import annotations

import os

import jax
from jax.sharding import Mesh

SHARE = 0.95  # of what is free; the rest is for what the allocator cannot use
CPU_SHARE = 0.5  # of what is free in a machine, which has other work too


def free_bytes(mesh: Mesh | None) -> int:
    """Bytes that are free on that device of a mesh, of this process, which has fewest; None is the default device.

    A CPU's devices share what the machine has free.
    """
    devices = jax.devices()[:1] if mesh is None else list(mesh.local_devices)
    if devices[0].platform == "cpu":
        pages = os.sysconf("SC_AVPHYS_PAGES")
        return int(pages * os.sysconf("SC_PAGE_SIZE") * CPU_SHARE) // len(devices)
    stats = [device.memory_stats() for device in devices]
    return int(min(one["bytes_limit"] - one["bytes_in_use"] for one in stats) * SHARE)
