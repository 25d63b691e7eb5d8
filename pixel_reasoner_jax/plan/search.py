"""Searches the limits of a run on given chips: the largest sizes that fit into memory, and the fastest mesh."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from pixel_reasoner_jax.buckets import bucket
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.parallel import MeshError
from pixel_reasoner_jax.parallel.sharding import check_sizes
from pixel_reasoner_jax.plan.chips import Topology
from pixel_reasoner_jax.plan.measure import Phase, measure
from pixel_reasoner_jax.plan.programs import Programs


class Largest(NamedTuple):
    """The largest size that fits, 0 if none does; and what limits it, "" if it is memory."""

    size: int
    end: str

    def __str__(self) -> str:
        return (f"{self.size}, {self.end}" if self.end else str(self.size)) if self.size else "none"


def largest(measured: Callable[[int], Phase], present: Phase, size: int, limit: int) -> int:
    """The largest size that fits, of the declared sizes of batches and slots (`buckets.bucket`); 0 if none fits.

    Memory grows about linearly with the size: two measured sizes predict the largest, which is then compiled.

    Args:
      measured: compiles a size.
      present: the measurement of `size`.
      size: a declared size.
      limit: larger sizes would be of no use.
    """
    known = {size: present}
    if not present.fits:
        smaller = [candidate for candidate in sizes(size) if candidate < size]
        return next((candidate for candidate in reversed(smaller) if measured(candidate).fits), 0)
    candidates = [candidate for candidate in sizes(limit) if candidate > size]
    if not candidates:
        return size
    probe = next((candidate for candidate in candidates if candidate >= 2 * size), candidates[-1])
    known[probe] = measured(probe)
    best = probe if known[probe].fits else size
    if known[probe].bytes_per_chip is not None:
        each = max((known[probe].bytes_per_chip - present.bytes_per_chip) / (probe - size), 1)
        room = size + (present.bytes_available - present.bytes_per_chip) / each
        guesses = [candidate for candidate in candidates if best < candidate <= room and candidate not in known]
    else:
        guesses = [candidate for candidate in candidates if best < candidate < probe]
    return next((candidate for candidate in reversed(guesses) if measured(candidate).fits), best)


def sizes(limit: int) -> list[int]:
    """The declared sizes up to a limit, ascending."""
    found = [1]
    while (following := bucket(found[-1] + 1)) <= limit:
        found.append(following)
    return found


def _silent(key: str, value: int) -> None:
    """Says nothing of what is tried."""


def largest_micro_batch(
    config: ConfigDict,
    model: Config,
    topology: Topology,
    present: Phase,
    progress: Callable[[str, int], None] = _silent,
) -> Largest:
    """The largest `config.train.micro_batch_rows` for the update that was measured as `present`.

    Args:
      progress: is called with the setting's key and a size, before that size is compiled.
    """
    rows = config.train.micro_batch_rows
    parts = Programs(config, model, topology.devices).rows // rows

    def measured(rows: int) -> Phase:
        progress("train.micro_batch_rows", rows)
        return _measure(config, model, topology, present.phase, "train.micro_batch_rows", rows)

    useful = -(-config.train.batch_size // parts)
    found = largest(measured, present, rows, max(useful, rows))
    return Largest(found, "which a whole batch takes" if found >= useful else "")


def largest_slots(
    config: ConfigDict,
    model: Config,
    topology: Topology,
    present: Phase,
    progress: Callable[[str, int], None] = _silent,
) -> Largest:
    """The largest `config.rollout.slots` for the phase that was measured as `present`, decoding.

    Args:
      progress: see `largest_micro_batch`.
    """

    def measured(slots: int) -> Phase:
        progress("rollout.slots", slots)
        return _measure(config, model, topology, present.phase, "rollout.slots", slots)

    slots = bucket(config.rollout.slots)
    useful = config.grpo.queries_per_episode * config.rollout.samples
    found = largest(measured, present, slots, max(useful, slots))
    return Largest(found, "as many as an episode has responses" if found >= useful else "")


def meshes(devices: Sequence[jax.Device], model: Config) -> Iterator[dict[str, int]]:
    """Meshes of these devices to choose from: those that divide the model and keep each tensor axis on one host.

    Parameters are sharded over all devices (fsdp and tensor), or replicated on all of them (data).
    """
    count = len(devices)
    local = count // len({device.process_index for device in devices})
    found = [
        {"data": 1, "fsdp": count // tensor, "tensor": tensor} for tensor in range(1, local + 1) if not local % tensor
    ]
    if count > 1:
        found.append({"data": count, "fsdp": 1, "tensor": 1})
    for mesh in found:
        try:
            check_sizes(model.divisible, mesh)
        except MeshError:
            continue
        yield mesh


def best_mesh(
    config: ConfigDict, model: Config, topology: Topology, progress: Callable[[dict[str, int], list[Phase], str], None]
) -> dict[str, int] | None:
    """The fastest mesh: the phases that take longest, decoding and the update, fit and have the least time in total.

    The time of a phase is its `seconds_floor` for one token. Returns None if these phases fit on no mesh.

    Args:
      progress: is called with each mesh, its measured phases, and the reason why the run refuses it, or "".
    """
    times = {}
    for mesh in meshes(topology.devices, model):
        tried = copy.deepcopy(config)
        tried.mesh.update(mesh)
        try:
            programs = Programs(tried, model, topology.devices)
        except ConfigError as error:
            progress(mesh, [], str(error))
            continue
        names = ("decode", "grpo_update") if "decode" in programs.phases else ("sft_update",)
        phases = []
        for name in names:  # decoding first: it is compiled in no time
            if all(phase.fits for phase in phases):
                phases.append(measure(programs, name, topology))
        progress(mesh, phases, "")
        if all(phase.fits for phase in phases):
            times[tuple(mesh.items())] = sum(phase.seconds_floor / phase.tokens for phase in phases)
    return dict(min(times, key=times.get)) if times else None


def _measure(config: ConfigDict, model: Config, topology: Topology, phase: str, key: str, value: int) -> Phase:
    config = copy.deepcopy(config)
    config.update_from_flattened_dict({key: value})
    return measure(Programs(config, model, topology.devices), phase, topology)
