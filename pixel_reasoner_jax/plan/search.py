"""Searches the limits of a run on given chips: the largest sizes that fit into memory, and the fastest meshes."""

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


class Meshes(NamedTuple):
    """Sizes of the mesh of a run, and of that of its rollouts, None if it has none."""

    training: dict[str, int]
    rollouts: dict[str, int] | None


def rollout_meshes(devices: Sequence[jax.Device], model: Config) -> list[list[dict[str, int]]]:
    """Meshes of these devices to choose from for rollouts: those that divide the model within a host.

    Returns:
      First those where each part has all parameters; then those where they are spread over all devices and gathered in
      every step, which is so slow that they are for want of memory alone.
    """
    tensors = [mesh["tensor"] for mesh in meshes(devices, model) if mesh["data"] == 1]
    counts = {tensor: len(devices) // tensor for tensor in tensors}
    return [
        [{"data": count, "fsdp": 1, "tensor": tensor} for tensor, count in counts.items()],
        [{"data": 1, "fsdp": count, "tensor": tensor} for tensor, count in counts.items() if count > 1],
    ]


class MeshSearch:
    """Searches the fastest meshes: decoding and the update, which take longest, fit and have the least time in total.

    The time of a phase is its `seconds_floor` for one token. That of decoding depends on the mesh of rollouts alone:
    beside each further mesh of the run, the fastest are tried first, and the others only where they do not fit.

    Args:
      config, model, topology: of the run.
      progress: is called with meshes, a measured phase, and the reason why the run refuses the meshes, or "".
    """

    def __init__(
        self,
        config: ConfigDict,
        model: Config,
        topology: Topology,
        progress: Callable[[Meshes, Phase | None, str], None],
    ):
        self._config, self._model, self._topology, self._progress = config, model, topology, progress
        self._decoding: dict[tuple, float] = {}  # a token's time, by the sizes of the rollouts' mesh

    def best(self) -> Meshes | None:
        """The fastest meshes; None if these phases fit on no meshes."""
        found = []
        for mesh in meshes(self._topology.devices, self._model):
            try:
                if (best := self._beside(mesh)) is not None:
                    found.append(best)
            except ConfigError as error:
                self._progress(Meshes(mesh, None), None, str(error))
        return min(found, key=lambda best: best[0])[1] if found else None

    def _beside(self, mesh: dict[str, int]) -> tuple[float, Meshes] | None:
        """The time of the fastest meshes with this one for the run, and these; None if none fits."""
        if "rollout" not in self._config:
            seconds = self._seconds(Meshes(mesh, None), "sft_update")
            return None if seconds is None else (seconds, Meshes(mesh, None))
        for choice in rollout_meshes(self._topology.devices, self._model):
            if (decoding := self._fastest(mesh, choice)) is None:
                continue
            seconds = self._seconds(Meshes(mesh, decoding[1]), "grpo_update")  # last: it takes long to compile
            return None if seconds is None else (decoding[0] + seconds, Meshes(mesh, decoding[1]))
        return None

    def _fastest(self, mesh: dict[str, int], choice: list[dict[str, int]]) -> tuple[float, dict[str, int]] | None:
        """The time of the fastest decoding that fits, and its mesh."""
        best = None
        for rollouts in sorted(choice, key=lambda sizes: self._decoding.get(tuple(sizes.values()), 0.0)):
            sizes = tuple(rollouts.values())
            if best is not None and self._decoding.get(sizes, 0.0) >= best[0]:
                break
            try:
                seconds = self._seconds(Meshes(mesh, rollouts), "decode")
            except MeshError as error:  # of a cache that cannot be read there
                self._progress(Meshes(mesh, rollouts), None, str(error))
                continue
            if seconds is not None:
                self._decoding[sizes] = seconds
                best = min(best or (seconds, rollouts), (seconds, rollouts), key=lambda one: one[0])
        return best

    def _seconds(self, tried: Meshes, name: str) -> float | None:
        """The least time for a token of a phase; None if it does not fit.

        Raises:
          ConfigError: the run refuses the meshes.
        """
        config = copy.deepcopy(self._config)
        config.mesh.update(tried.training)
        if tried.rollouts is not None:
            config.rollout.mesh.update(tried.rollouts)
        phase = measure(Programs(config, self._model, self._topology.devices), name, self._topology)
        self._progress(tried, phase, "")
        return phase.seconds_floor / phase.tokens if phase.fits else None


def _measure(config: ConfigDict, model: Config, topology: Topology, phase: str, key: str, value: int) -> Phase:
    config = copy.deepcopy(config)
    config.update_from_flattened_dict({key: value})
    return measure(Programs(config, model, topology.devices), phase, topology)
