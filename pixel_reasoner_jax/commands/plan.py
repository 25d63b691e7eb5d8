"""`pixel-reasoner plan`: whether a run fits given chips and what it takes there, before anything is paid for."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import jax
from ml_collections import ConfigDict

from pixel_reasoner_jax.commands.options import PRESETS
from pixel_reasoner_jax.commands.plan_episode import episode_report
from pixel_reasoner_jax.commands.quickstart import phase_config
from pixel_reasoner_jax.config import SECTIONS, ConfigError, load_config
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.model_files import base_directory
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.models.weights import read_config
from pixel_reasoner_jax.plan.chips import GIB, Topology, topology
from pixel_reasoner_jax.plan.episode import PHASES, plan_episode
from pixel_reasoner_jax.plan.in_flight import BESIDE_DECODING, DoesNotFit, InFlight, decide, without_cache
from pixel_reasoner_jax.plan.lengths import Group, method_groups
from pixel_reasoner_jax.plan.measure import Phase, measure
from pixel_reasoner_jax.plan.programs import Programs
from pixel_reasoner_jax.plan.search import Largest, Meshes, MeshSearch, largest_micro_batch, largest_slots
from pixel_reasoner_jax.plan.stored_lengths import run_groups
from pixel_reasoner_jax.processing import Geometry
from pixel_reasoner_jax.processing.preprocessor import PreprocessorFiles
from pixel_reasoner_jax.report.text import plain_table
from pixel_reasoner_jax.rollout.capacity import CapacityError

HEADINGS = [
    "",
    "tokens",
    "GiB a chip",
    "of",
    "",
    "TFLOP",
    "products",
    "GiB received",
    "least time",
    "by",
    "compiled in",
]


def run(args: argparse.Namespace, overrides: Iterable[tuple[str, str]] = ()) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")  # nothing here runs on a chip, even if there is one
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are part of what is asked
    config, model = load_experiment(args.config, overrides, args.preset)
    chips = topology(args.topology)
    programs = Programs(config, model, chips.devices)
    meshes = Meshes(*(mesh and dict(mesh.shape) for mesh in (programs.mesh, programs.rollout_mesh)))
    names = [name.strip() for name in args.phases.split(",")] if args.phases else programs.phases
    if unknown := [name for name in names if name not in programs.phases]:
        raise UserError(f"--phases names {unknown[0]!r}; this run has {', '.join(programs.phases)}")
    groups = _groups(args, config, names)
    in_flight, problem, beside = None, None, {}
    if "decode" in names and not config.rollout.slots:
        try:
            config, programs, in_flight, beside = _settled(config, model, chips, programs)
        except (DoesNotFit, CapacityError) as error:
            problem = error
    phases = _measured(programs, names, chips, beside)
    of_name, more = {phase.phase: phase for phase in phases}, {}
    if in_flight:
        more["slots"] = Largest(config.rollout.slots, "which it is, as memory allows")
    if not args.phases:
        _say("how much fits")
        more["micro_batch_rows"] = largest_micro_batch(config, model, chips, phases[-1], _trying)
        if "decode" in names and not in_flight:
            more["slots"] = largest_slots(config, model, chips, of_name["decode"], _trying)
    if args.search:
        best = MeshSearch(config, model, chips, _tried).best()
        more["mesh"], more["rollout_mesh"] = best or (None, None)
    print(report(phases, meshes, more))
    largest = {name: found.size if isinstance(found, Largest) else found for name, found in more.items()}
    of_run = {"mesh": meshes.training, "rollout_mesh": meshes.rollouts, "largest": largest}
    figures = [phase.to_json() | of_run for phase in phases]
    if args.episode:
        try:
            if problem:
                raise problem
            in_flight = in_flight or decide(config, model, chips, programs, of_name, _say)
            _say("simulating the rollout")
            episode = plan_episode(config, model, chips, programs, phases, groups, in_flight)
            print(f"\n{episode_report(episode)}")
            of_episode = episode.to_json()
        except (DoesNotFit, CapacityError) as error:
            problem, of_episode = error, {"fits": False, "reason": str(error)}
        figures = {"phases": figures, "episode": of_episode}
    if args.json:
        print(json.dumps(figures))
    if problem:
        raise problem


def _settled(
    config: ConfigDict, model: Config, chips: Topology, programs: Programs
) -> tuple[ConfigDict, Programs, InFlight, dict[str, Phase]]:
    """Has memory decide on `config.rollout.slots`, as a run does.

    Returns:
      The config and the programs that follow, what was decided, and the phases that were measured for it. These are
      programs of fewer slots, but the same ones; only the cache beside them is larger.
    """
    few = Programs(without_cache(config, programs.parts), model, chips.devices)
    beside = {phase.phase: phase for phase in _measured(few, BESIDE_DECODING, chips, {})}
    in_flight = decide(config, model, chips, few, beside, _say)
    config = in_flight.settle(config)
    programs = Programs(config, model, chips.devices)
    more = programs.cache_bytes - few.cache_bytes
    return config, programs, in_flight, {name: phase.with_more(more) for name, phase in beside.items()}


def _measured(programs: Programs, names: Sequence[str], chips: Topology, known: Mapping[str, Phase]) -> list[Phase]:
    """Compiles phases, but for those that are known, and says how far it is."""
    phases = []
    for number, name in enumerate(names, start=1):
        if name in known:
            phases.append(known[name])
            continue
        _say(f"compiling {name} for {chips.name} ({number} of {len(names)})")
        phases.append(measure(programs, name, chips))
        used, available, verdict = _row(phases[-1])[2:5]
        _say(f"{used} of {available} GiB a chip: {verdict}")
    return phases


def _groups(args: argparse.Namespace, config: ConfigDict, names: Sequence[str]) -> list[Group]:
    """The prompts and responses of the episode that is to be planned, none if none is."""
    if not args.episode:
        if args.lengths:
            raise UserError("--lengths are those of an episode: add --episode")
        return []
    if "rollout" not in config:
        raise UserError("--episode plans a run of rl, and this config is one of sft")
    if missing := [name for name in PHASES if name not in names]:
        raise UserError(f"--episode needs the phase {missing[0]}: name it in --phases too, or leave --phases out")
    return run_groups(args.lengths, config) if args.lengths else method_groups(config)


def report(phases: Sequence[Phase], meshes: Meshes, more: dict[str, object]) -> str:
    """The table and what is to be said about it."""
    lines = [plain_table([HEADINGS, *map(_row, phases)]), "", f"mesh: {_mesh(meshes.training)}"]
    if meshes.rollouts:
        lines.append(f"rollout.mesh: {_mesh(meshes.rollouts)}")
    lines += [f"{phase.phase}: {phase.reason}" for phase in phases if phase.reason]
    if "micro_batch_rows" in more:
        lines.append(f"largest train.micro_batch_rows that fits: {more['micro_batch_rows']}")
    if "slots" in more:
        lines.append(f"largest rollout.slots that fits: {more['slots']}")
    if "mesh" in more:
        lines.append(f"recommended mesh: {_mesh(more['mesh']) if more['mesh'] else 'none fits'}")
        if more["rollout_mesh"]:
            lines.append(f"recommended rollout.mesh: {_mesh(more['rollout_mesh'])}")
    return "\n".join(lines)


def _row(phase: Phase) -> list[str]:
    if phase.bytes_per_chip is None:
        used, verdict = "?", "does not fit"
    else:
        left = phase.bytes_available - phase.bytes_per_chip
        used = f"{phase.bytes_per_chip / GIB:.2f}"
        verdict = f"fits, {left / GIB:.2f} left" if phase.fits else f"{max(-left, 0) / GIB:.2f} too much"
    return [
        phase.phase,
        f"{phase.tokens:,}",
        used,
        f"{phase.bytes_available / GIB:.2f}",
        verdict,
        f"{phase.flops / 1e12:.3g}",
        f"{phase.matmul_share:.1%}",
        f"{phase.interconnect_bytes / GIB:.3g}",
        f"{phase.seconds_floor:.3g} s",
        phase.bound,
        f"{phase.compile_seconds:.0f} s",
    ]


def _mesh(mesh: dict[str, int]) -> str:
    return " ".join(f"{axis}={size}" for axis, size in mesh.items())


def _trying(key: str, value: int) -> None:
    _say(f"compiling with {key}={value}")


def _tried(meshes: Meshes, phase: Phase | None, refused: str) -> None:
    if phase is not None:
        refused = f"{phase.phase} {'fits' if phase.fits else 'does not fit'}, {phase.seconds_floor:.3g} s"
    rollouts = f", rollout.mesh {_mesh(meshes.rollouts)}" if meshes.rollouts else ""
    _say(f"mesh {_mesh(meshes.training)}{rollouts}: {refused}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load_experiment(
    path: str, overrides: Iterable[tuple[str, str]] = (), preset: str | None = None
) -> tuple[ConfigDict, Config]:
    """Reads an experiment of `rl`, `sft` or `quickstart`, whose reinforcement learning is planned.

    Args:
      path, overrides: see `config.load_config`.
      preset: sizes of the model; None: those of the config's model, or, where its directory is not here, the size that
        the directory's name ends in.

    Raises:
      ConfigError: a mistake in the config, or sizes that are nowhere to be found.
    """
    config = load_config(path)
    if "rl" in config:
        config = load_config(path, overrides, "quickstart")
        preset = preset or config.model.preset
        return phase_config(config, "rl", pathlib.Path(config.workdir), "", ""), Config.preset(preset)
    command = next((owner for owner, sections in SECTIONS.items() if any(name in config for name in sections)), "sft")
    config = load_config(path, overrides, f"{command}_qwen2_5_vl_7b")
    model = _sizes(config.model.directory, preset)
    if (base_directory(config.model.directory) / "config.json").exists():
        budgets = PreprocessorFiles.read(config.model.directory).budgets(Geometry.from_config(model.to_hf()).token_size)
        config.processor.update(dataclasses.asdict(budgets.replaced(config.processor)))
    return config, model


def _sizes(directory: str, preset: str | None) -> Config:
    file = base_directory(directory) / "config.json"
    if preset is not None:
        return Config.preset(preset)
    if file.exists():
        return read_config(directory)
    words = re.split(r"[-_/.]", str(directory).lower())
    if named := [word for word in words if word in PRESETS]:
        return Config.preset(named[-1])
    raise ConfigError(
        f"there is no {file}, and its name says no size: give one with --preset, one of {', '.join(PRESETS)}"
    )
