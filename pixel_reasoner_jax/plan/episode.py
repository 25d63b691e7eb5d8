"""Plans an episode of RL as a whole: its rollout, simulated, its updates, and what lies between them.

All times are least times by the chips' published rates, as those of the phases are (`measure`), for calls one after the
other. Work of the host, loading, operations, answers and compilation are taken to be hidden or over.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from data_pipeline.pipeline import record_count
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.parallel import parts as parts_of
from pixel_reasoner_jax.plan.chips import HOST_RATE, Topology
from pixel_reasoner_jax.plan.in_flight import BESIDE_DECODING, DoesNotFit, InFlight, missing
from pixel_reasoner_jax.plan.lengths import Group
from pixel_reasoner_jax.plan.measure import Phase
from pixel_reasoner_jax.plan.programs import Programs
from pixel_reasoner_jax.plan.rollout_costs import layout_work, rollout_costs
from pixel_reasoner_jax.plan.simulation import CALLS, Rollout, simulate
from pixel_reasoner_jax.plan.updates import packed_rows, update_seconds
from pixel_reasoner_jax.rollout.capacity import PAGE, Capacity
from pixel_reasoner_jax.rollout.policy import DECODE_STEPS
from pixel_reasoner_jax.training.training_run import data_sets
from pixel_reasoner_jax.training.update_schedule import UpdateSchedule

PHASES = (*BESIDE_DECODING, "grpo_update")  # that have to be measured; decoding is compiled without its cache
# Bytes a second that a host writes to storage. An assumption, far below its network: Google's page on v5p has 6.25 GB/s
# for each of its four chips.
STORAGE_RATE = 1e9
# Where the config's data are not here: about as many as the released data of phase two have [?].
QUERIES = 15_000


@dataclasses.dataclass(frozen=True)
class Episode:
    """What an episode takes, and the run that it is part of.

    Attributes:
      capacity: slots and pages of a part of the mesh.
      parts, chips: of the mesh.
      groups: the queries and responses.
      rollout: of these.
      seconds: of `CALLS`, "update", "reshard" (laying out the parameters for decoding) and "checkpoint", by the rate
        that bounds them.
      written_seconds: that a checkpoint is written for, behind the next episode.
      episodes: of the run.
      queries: that the run's length was taken from; None where `train.steps` sets it.
      assumed: whether that many were assumed.
    """

    capacity: Capacity
    parts: int
    chips: int
    groups: Sequence[Group]
    rollout: Rollout
    seconds: Mapping[str, Mapping[str, float]]
    written_seconds: float
    episodes: int
    queries: int | None
    assumed: bool

    def seconds_of(self, *names: str) -> float:
        """Seconds of some of the parts of an episode; of all of them, if none is named."""
        return sum(sum(self.seconds[name].values()) for name in names or self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens, in a second of the rollout."""
        return self.rollout.sampled / max(self.seconds_of(*CALLS), 1e-12)

    @property
    def hours(self) -> float:
        """Of the whole run."""
        return self.episodes * self.seconds_of() / 3600

    @property
    def idle_share(self) -> float:
        """The share of the rows of decoding steps that no response is sampled in, since the last one has begun."""
        rows = self.rollout.tail_steps * self.capacity.slots * self.parts
        return 1 - self.rollout.tail_sampled / rows if rows else 0.0

    @property
    def bounds(self) -> dict[str, str]:
        """The rate that bounds most of the seconds of each part of the episode that takes any."""
        return {name: max(of, key=of.get) for name, of in self.seconds.items() if sum(of.values())}

    def to_json(self) -> dict[str, Any]:
        rollout, capacity = self.rollout, self.capacity
        return {
            "fits": True,
            "in_flight": rollout.in_flight,
            "slots": capacity.slots * self.parts,
            "pages": capacity.pages * self.parts,
            "page_tokens": PAGE,
            "pages_used": rollout.used,
            "waits": rollout.waits,
            "swapped_pages": rollout.swapped,
            "queries": len(self.groups),
            "responses": sum(len(group.responses) for group in self.groups),
            "sampled_tokens": rollout.sampled,
            "prefilled_tokens": rollout.prefilled,
            "decode_steps": rollout.steps,
            "rollout_tokens_per_second": self.tokens_per_second,
            "rollout_seconds": self.seconds_of(*CALLS),
            **{f"{name}_seconds": self.seconds_of(name) for name in self.seconds},
            "checkpoint_written_seconds": self.written_seconds,
            "seconds": self.seconds_of(),
            "tail_seconds": rollout.tail_seconds,
            "idle_share": self.idle_share,
            "episodes": self.episodes,
            "hours": self.hours,
            "chip_hours": self.hours * self.chips,
            "bounds": self.bounds,
        }


def plan_episode(
    config: ConfigDict,
    model: Config,
    topology: Topology,
    programs: Programs,
    phases: Sequence[Phase],
    groups: Sequence[Group],
    in_flight: InFlight,
) -> Episode:
    """Plans an episode.

    Args:
      config, model, topology: of the run.
      programs: of these.
      phases: as measured, `PHASES` among them.
      groups: the lengths of its prompts and responses.
      in_flight: what its rollouts hold.

    Raises:
      DoesNotFit: the update has no room.
      UserError: nothing of it would be sampled.
    """
    of_name = {phase.phase: phase for phase in phases}
    if not any(turns for group in groups for turns in group.responses):
        raise UserError("no prompt leaves room for a response: config.rollout.max_length is too short for them")
    if not of_name["grpo_update"].fits:
        raise DoesNotFit(f"the update does not fit: {missing(of_name['grpo_update'])}")
    capacity, step = in_flight.capacity, in_flight.step
    shapes = dataclasses.replace(programs.shapes, slots=capacity.slots)
    costs = rollout_costs(programs, of_name, step.step, capacity.slots, topology, model)
    rollout = simulate(groups, costs, shapes, capacity, programs.hosts, DECODE_STEPS, config.rollout.max_length)
    rows = packed_rows(groups, config, parts_of(programs.mesh))
    bound, least = layout_work(of_name["vision_encode"]).least(topology.chip)
    seconds = {
        **rollout.seconds,
        "update": update_seconds(rows, config, of_name["grpo_update"], topology.chip),
        "reshard": collections.Counter({bound: least}),
    }
    held, written = _checkpoint_seconds(config, programs, sum(sum(of.values()) for of in seconds.values()))
    seconds["checkpoint"] = held
    episodes, queries, assumed = _episodes(config)
    chips = len(topology.devices)
    return Episode(capacity, programs.parts, chips, groups, rollout, seconds, written, episodes, queries, assumed)


def _checkpoint_seconds(config: ConfigDict, programs: Programs, seconds: float) -> tuple[dict[str, float], float]:
    """The seconds that an episode of so many other `seconds` waits for a checkpoint, and those that writing one takes.

    The chips wait while the state is copied to the hosts' memory. From there it is written behind what follows; they
    wait again only if that has not ended when the next checkpoint comes.
    """
    between = config.train.checkpoint_every
    copied = programs.state_bytes / HOST_RATE
    chips = programs.mesh.size // len(set(programs.hosts)) / programs.mesh.shape["data"]  # replicas are written once
    written = programs.state_bytes * chips / STORAGE_RATE
    return {"host": copied / between, "storage": max(written / between - seconds, 0.0)}, written


def _episodes(config: ConfigDict) -> tuple[int, int | None, bool]:
    """Episodes of the run, the queries that they were taken from, and whether these were assumed.

    Raises:
      ConfigError: the queries do not fill an episode.
    """
    if config.train.steps:
        return UpdateSchedule.of(config, 0, "").episodes, None, False
    try:
        data = data_sets(config)
    except ConfigError:
        return UpdateSchedule.of(config, QUERIES, "the data").episodes, QUERIES, True
    count = record_count(data, config.data.pass_rates)
    return UpdateSchedule.of(config, count, str(data)).episodes, count, False
