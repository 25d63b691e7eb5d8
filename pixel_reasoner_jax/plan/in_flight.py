"""How many responses the rollouts of a plan have in flight, and how many pages of the cache there is room for."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.plan.chips import Topology
from pixel_reasoner_jax.plan.measure import Phase
from pixel_reasoner_jax.plan.programs import ROLLOUT, Programs
from pixel_reasoner_jax.plan.rollout_costs import DecodingStep, measure_step
from pixel_reasoner_jax.rollout.capacity import Capacity, fit, page_bytes, pages_of, slot_bytes
from pixel_reasoner_jax.rollout.device_memory import SHARE
from pixel_reasoner_jax.rollout.shapes import MOST_ROWS

BESIDE_DECODING = ROLLOUT[:-1]  # phases that have to be measured before


class DoesNotFit(UserError):
    """What has no room on the chips; the message says what lacks."""


@dataclasses.dataclass(frozen=True)
class InFlight:
    """What the rollouts hold.

    Attributes:
      capacity: slots and pages of a part of the mesh.
      parts: of the mesh.
      step: decoding as compiled for these slots, without its cache.
    """

    capacity: Capacity
    parts: int
    step: DecodingStep

    def settle(self, config: ConfigDict) -> ConfigDict:
        """The config with these slots and pages, as a run keeps what memory has decided."""
        config = copy.deepcopy(config)
        config.rollout.slots = self.capacity.slots * self.parts
        config.rollout.cache_tokens = self.capacity.cache_tokens * self.parts
        return config


def without_cache(config: ConfigDict, parts: int) -> ConfigDict:
    """The config with a small cache, and slots enough for programs as those of more slots.

    Args:
      parts: of the rollouts' mesh.
    """
    config = copy.deepcopy(config)
    most = config.grpo.queries_per_episode * config.rollout.samples
    config.rollout.slots = parts * min(MOST_ROWS, -(-most // parts))
    config.rollout.cache_tokens = parts
    return config


def decide(
    config: ConfigDict,
    model: Config,
    topology: Topology,
    programs: Programs,
    phases: Mapping[str, Phase],
    progress: Callable[[str], None] = lambda text: None,
) -> InFlight:
    """Decides on slots and pages, and compiles decoding for so many slots.

    What a rollout needs beside the cache is known from its phases as compiled, less their cache. Of what is left, the
    same share is taken as in a run. Decoding is compiled twice where memory decides on the slots.

    Args:
      config, model, topology: of the run.
      programs: those that the phases were measured of.
      phases: `BESIDE_DECODING`, as measured.
      progress: is told what is done.

    Raises:
      DoesNotFit, CapacityError: there is no room.
    """
    available, parts, length = topology.chip.memory, programs.parts, config.rollout.max_length
    page, slot = page_bytes(model, programs.cache_dtype, programs.tensor), slot_bytes(model, programs.tensor)
    most = -(-config.grpo.queries_per_episode * config.rollout.samples // parts)
    for name in BESIDE_DECODING:
        if phases[name].bytes_per_chip is None:
            raise DoesNotFit(f"{name} does not fit: {missing(phases[name])}")
    others = max(phases[name].bytes_per_chip for name in BESIDE_DECODING) - programs.cache_bytes

    def compiled(slots: int) -> tuple[DecodingStep, int]:
        progress(f"compiling decode with {slots * parts:,} slots and no cache")
        step = measure_step(config, model, topology, slots)
        if step.bytes is None or step.reason:
            raise DoesNotFit(f"decode does not fit with {slots * parts:,} slots: {step.reason}")
        return step, int((available - max(step.bytes, others)) * SHARE)

    slots = -(-config.rollout.slots // parts)
    step, room = compiled(max(slots, 1))
    if not slots:
        slots = fit(room, page, slot, length, most).slots
        step, room = compiled(slots)
    capacity = fit(room, page, 0, length, most, slots)
    if config.rollout.cache_tokens:
        wanted = max(pages_of(-(-config.rollout.cache_tokens // parts)), 2 * pages_of(length)) + 1
        capacity = dataclasses.replace(capacity, pages=min(capacity.pages, wanted))
    return InFlight(capacity, parts, step)


def missing(phase: Phase) -> str:
    """What a phase that does not fit lacks."""
    if phase.reason or phase.bytes_per_chip is None:
        return phase.reason or "the compiler ran out of memory"
    return f"{phase.phase} needs {phase.bytes_per_chip:,} bytes of a chip's {phase.bytes_available:,}"
