"""`pixel-reasoner plan`: whether a run fits given chips and what it takes there, before anything is paid for."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence

import jax

from pixel_reasoner_jax.evaluation.text import plain_table
from pixel_reasoner_jax.plan.chips import EXAMPLES, GIB, topology
from pixel_reasoner_jax.plan.experiment import PRESETS, load_experiment
from pixel_reasoner_jax.plan.measure import Phase, measure
from pixel_reasoner_jax.plan.programs import Programs
from pixel_reasoner_jax.plan.search import Largest, best_mesh, largest_micro_batch, largest_slots

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pixel-reasoner plan`."""
    parser.add_argument("--config", required=True, metavar="FILE", help="experiment file of rl, sft or quickstart")
    parser.add_argument("--topology", required=True, metavar="CHIPS", help=f"chips and their number: {EXAMPLES}")
    parser.add_argument("--preset", choices=PRESETS, help="the model's size, where its directory is not here")
    parser.add_argument("--search", action="store_true", help="compile for other meshes too, and recommend one")
    parser.add_argument("--phases", metavar="NAMES", help="only these phases, separated by commas")
    parser.add_argument("--json", action="store_true", help="a last line for programs: a list of phases")


def run(args: argparse.Namespace, overrides: Iterable[tuple[str, str]] = ()) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")  # nothing here runs on a chip, even if there is one
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are part of what is asked
    config, model = load_experiment(args.config, overrides, args.preset)
    chips = topology(args.topology)
    programs = Programs(config, model, chips.devices)
    mesh = dict(programs.mesh.shape) if programs.mesh else {"data": 1, "fsdp": 1, "tensor": 1}
    names = [name.strip() for name in args.phases.split(",")] if args.phases else programs.phases
    if unknown := [name for name in names if name not in programs.phases]:
        raise ValueError(f"--phases names {unknown[0]!r}; this run has {', '.join(programs.phases)}")
    phases = []
    for number, name in enumerate(names, start=1):
        _say(f"compiling {name} for {args.topology} ({number} of {len(names)})")
        phases.append(measure(programs, name, chips))
        used, available, verdict = _row(phases[-1])[2:5]
        _say(f"{used} of {available} GiB a chip: {verdict}")
    more = {}
    if not args.phases:
        _say("how much fits")
        more["micro_batch_rows"] = largest_micro_batch(config, model, chips, phases[-1])
        if "decode" in names:
            more["slots"] = largest_slots(config, model, chips, phases[names.index("decode")])
    if args.search:
        more["mesh"] = best_mesh(config, model, chips, _tried)
    print(report(phases, mesh, more))
    if args.json:
        largest = {name: found.size if isinstance(found, Largest) else found for name, found in more.items()}
        print(json.dumps([{**phase.to_json(), "mesh": mesh, "largest": largest} for phase in phases]))


def report(phases: Sequence[Phase], mesh: dict[str, int], more: dict[str, object]) -> str:
    """The table and what is to be said about it."""
    lines = [plain_table([HEADINGS, *map(_row, phases)]), "", f"mesh: {_mesh(mesh)}"]
    lines += [f"{phase.phase}: {phase.reason}" for phase in phases if phase.reason]
    if "micro_batch_rows" in more:
        lines.append(f"largest train.micro_batch_rows that fits: {more['micro_batch_rows']}")
    if "slots" in more:
        lines.append(f"largest rollout.slots that fits: {more['slots']}")
    if "mesh" in more:
        lines.append(f"recommended mesh: {_mesh(more['mesh']) if more['mesh'] else 'none fits'}")
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


def _tried(mesh: dict[str, int], phases: list[Phase], refused: str) -> None:
    figures = refused or ", ".join(
        f"{one.phase} {'fits' if one.fits else 'does not fit'}, {one.seconds_floor:.3g} s" for one in phases
    )
    _say(f"mesh {_mesh(mesh)}: {figures}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
