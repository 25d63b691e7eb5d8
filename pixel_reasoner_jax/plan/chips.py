"""Published rates of chips, and topologies: devices to compile for, which this machine need not have."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import timeit
from collections.abc import Callable

import jax
import numpy as np

from pixel_reasoner_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The peak rates of one chip.

    Attributes:
      flops: floating-point operations a second in bfloat16 matrix products.
      memory: bytes that programs can have, as the compiler says.
      memory_rate: bytes a second that it reads from and writes to its memory.
      link_rate: bytes a second that it receives from its neighbours over all of its links.
      dimensions: axes of the torus that the chips form; 0 if they form none.
    """

    flops: float
    memory: int
    memory_rate: float
    link_rate: float
    dimensions: int = 0


# Google Cloud's page on each kind (docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e; read November 2025). They give the
# bandwidth between chips for both directions together: half of it comes in. That of v4 is from Jouppi et al., 2023
# ("TPU v4: An Optically Reconfigurable Supercomputer"): six links of 50 GB/s. Memory is what the compiler of libtpu
# 0.0.42 says is available, a little less than the chip has.
TPUS = {
    "v4": Chip(275e12, int(30.75 * GIB), 1200e9, 300e9, 3),
    "v5e": Chip(197e12, int(15.75 * GIB), 819e9, 200e9, 2),
    "v5p": Chip(459e12, int(95.74 * GIB), 2765e9, 600e9, 3),
    "v6e": Chip(918e12, int(31.25 * GIB), 1638e9, 400e9, 2),
}

# Bytes a second between a chip and the memory of its host, over PCIe: "How to Scale Your Model" (Austin et al., 2025)
# has 16 to 32 GB/s, and reckons with 1.5e10.
HOST_RATE = 15e9

# Google Cloud's names of slices: the kind, and what the number counts for each chip (v5p-32 has 16 chips).
ACCELERATOR_TYPES = {"v4": ("v4", 2), "v5litepod": ("v5e", 1), "v5e": ("v5e", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}

EXAMPLES = "v5p:2x2x4 or v5p-32, v4:2x2x2, v5e:4x4, v6e:4x8, or cpu:8"


class TopologyError(UserError):
    """A topology that cannot be compiled for; the message says what to write or to install."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for, and the peak rates of each of them."""

    name: str
    devices: list[jax.Device]
    chip: Chip


def topology(name: str) -> Topology:
    """Makes the devices of a topology. To be called before JAX has started its backends.

    Args:
      name: "v5p:2x2x4", kind and shape of a TPU slice, or "v5p-32", its accelerator type; both need libtpu, but no TPU.
        Or "cpu:8", for 8 devices of this machine's CPU.

    Raises:
      TopologyError: unknown chips, a shape that no slice of them has, or libtpu is not installed.
    """
    if match := re.fullmatch(r"cpu:([1-9]\d*)", name):
        devices = _cpu(int(match[1]))
        return Topology(name, devices, _cpu_chip(len(devices)))
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name := _with_shape(name))
    if not match or match[1] not in TPUS:
        raise TopologyError(f"unknown topology {name!r}: give chips and shape, such as {EXAMPLES}")
    chip = TPUS[match[1]]
    shape = [int(size) for size in match[2].split("x")]
    if len(shape) != chip.dimensions:
        raise TopologyError(
            f"topology {name!r} has {len(shape)} sizes, but {match[1]} slices have {chip.dimensions}: {EXAMPLES}"
        )
    return Topology(name, _tpu(name, match[1], shape), chip)


def _with_shape(name: str) -> str:
    """The topology of an accelerator type: as near a square or a cube as its chips can form.

    A name that is no accelerator type, or whose number of chips forms no slice, is returned as it is.
    """
    match = re.fullmatch(r"(\w+)-([1-9]\d*)", name)
    if not match or match[1] not in ACCELERATOR_TYPES:
        return name
    kind, counted = ACCELERATOR_TYPES[match[1]]
    chips, rest = divmod(int(match[2]), counted)
    if rest or chips.bit_count() != 1:
        return name
    doublings, dimensions = chips.bit_length() - 1, TPUS[kind].dimensions
    shape = [2 ** ((doublings + axis) // dimensions) for axis in range(dimensions)]
    if shape[0] == 1:  # one host: 2x2x1
        shape.reverse()
    return f"{kind}:{'x'.join(map(str, shape))}"


def _cpu(count: int) -> list[jax.Device]:
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # the backend has been started already
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise TopologyError(
            f"JAX has started with {len(devices)} CPU devices; set"
            f" XLA_FLAGS=--xla_force_host_platform_device_count={count} before"
        )
    return devices[:count]


def _cpu_chip(count: int) -> Chip:
    """The rates of 1/`count` of this machine. They are not published, so a matrix product and a copy are timed."""
    square = np.ones((1024, 1024), np.float32)
    flops = 2 * 1024**3 / _seconds(lambda: square @ square)
    rate = 2 * square.nbytes / _seconds(square.copy)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Chip(flops / count, memory // count, rate / count, rate / count)


def _seconds(call: Callable[[], object]) -> float:
    """The seconds that the fastest of five calls takes."""
    return min(timeit.repeat(call, number=1, repeat=5))


def _tpu(name: str, kind: str, shape: list[int]) -> list[jax.Device]:
    # With these, libtpu does not query Google's metadata server, and may be loaded by several processes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    # Without these libtpu complains that this is no TPU's host; they change nothing of the topology.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(f"compiling for {name} needs libtpu (no TPU): pip install '.[tpu]'; cpu:8 does without")
    from jax.experimental import topologies

    options = {"chip_config_name": "megacore"} if kind == "v4" else {}  # one device a chip, as the others have
    if shape == [1] * len(shape):
        options["chips_per_host_bounds"] = [1, 1, 1]
    elif shape == [2, 4]:  # v5litepod-8 and v6e-8 are one host; larger slices have hosts of four
        options["chips_per_host_bounds"] = [2, 4, 1]
    try:
        return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
    except Exception as error:
        raise TopologyError(f"topology {name!r} is not one that libtpu knows ({error}); such as {EXAMPLES}") from error
