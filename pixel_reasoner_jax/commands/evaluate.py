"""`pixel-reasoner evaluate`: a model on benchmarks, or in the quickstart's world."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.progress

from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.commands import evaluate_benchmarks
from pixel_reasoner_jax.commands.served import is_served
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.metrics import Outcome, figures
from pixel_reasoner_jax.evaluation.run import evaluate, side_by_side
from pixel_reasoner_jax.files import as_path, check_output, write_text
from pixel_reasoner_jax.operations import allow_own
from pixel_reasoner_jax.report.report import COLUMNS, STAGES, write_report
from pixel_reasoner_jax.report.text import counted, figures_table, printable
from pixel_reasoner_jax.report.trajectory_json import trajectory_dict
from pixel_reasoner_jax.rollout.settings import load_policy, parameter_type

SETTINGS = ("model", "dtype", "text_only", "split", "count", "world_seed", "samples", "seed", "temperature")


OF_BENCHMARKS = (
    "protocol set metric mode submission write_pass_rates endpoint judge judge_model judge_prices"
    " distributed coordinator"
).split()
"""Options that the quickstart's world does not have."""


def run(args: argparse.Namespace) -> None:
    """A table, and one JSON line with the same figures."""
    for name, least in (("count", 1), ("samples", 1), ("slots", 1), ("temperature", 0), ("world_seed", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UserError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    allow_own(args.own)
    (evaluate_benchmarks.run if args.on else _run_on_world)(args)


def _run_on_world(args: argparse.Namespace) -> None:
    """Accuracy and use of operations in the quickstart's world."""
    for option in OF_BENCHMARKS:
        if getattr(args, option):
            raise UserError(f"--{option.replace('_', '-')} is for benchmarks: name one with --on")
    args.samples = 1 if args.samples is None else args.samples
    args.temperature = 1.0 if args.temperature is None else args.temperature
    is_served(args)
    for path in filter(None, (args.html, args.out)):
        check_output(path)
    seeds = PixelSearch(args.count, args.split, args.world_seed)
    policy = load_policy(args.model, dtype=args.dtype, text_only=args.text_only, slots=args.slots)
    if args.max_length is not None:
        policy.limits = dataclasses.replace(policy.limits, max_length=args.max_length)
    with rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("evaluating", total=args.count)
        evaluation = evaluate(
            policy,
            Queries(seeds),
            samples=args.samples,
            seed=args.seed,
            temperature=args.temperature,
            on_progress=lambda done: progress.update(bar, completed=done),
        )
    if evaluation.without_room == args.count:
        raise UserError(
            f"none of the {args.count} prompts leaves room for a response within {policy.limits.max_length} tokens, so"
            " that there is nothing to score: raise --max-length"
        )
    if evaluation.failed:
        failed, last = len(evaluation.failed), [*evaluation.failed.values()][-1]
        them = "counts" if failed == 1 else "count"
        message = f"{failed} of {args.count} queries could not be shown and {them} in no figure; the last: {last}"
        print(message, file=sys.stderr)
    if evaluation.without_room:
        leave = "leaves" if evaluation.without_room == 1 else "leave"
        prompts = f"{evaluation.without_room} of {args.count} prompts"
        print(f"{prompts} {leave} no room for a response: raise --max-length", file=sys.stderr)
    if evaluation.unchecked:
        wrong = counted(evaluation.unchecked, "answer counts as wrong: it", "answers count as wrong: they")
        print(f"{wrong} could not be compared with the reference", file=sys.stderr)
    table = {"prior": prior_figures(seeds), "policy": evaluation.figures}
    name = printable(as_path(args.model).resolve().name)
    headings = {key: heading for key, (heading, _) in COLUMNS.items()}
    print(figures_table({STAGES["prior"]: table["prior"], name: table["policy"]}, headings))
    if args.html:
        path = write_report(
            args.html,
            figures={"prior": table["prior"], name: table["policy"]},
            runs={},
            responses=side_by_side({name: evaluation}),
            config={key: getattr(args, key) for key in SETTINGS} | {"dtype": parameter_type(args.model, args.dtype)},
            title=f"{name} on pixel search",
        )
        print(f"report: {path}")
    if args.out:
        pairs = zip(evaluation.trajectories, evaluation.scores, strict=True)
        responses = [trajectory_dict(trajectory, correct=score) for trajectory, score in pairs]
        print(f"responses: {write_text(args.out, json.dumps({**table, 'responses': responses}, allow_nan=False))}")
    print(json.dumps(table, allow_nan=False))


def prior_figures(seeds: Sequence[Any]) -> dict[str, float | None]:
    """The figures of answering every seed of the pixel-search world with its colour's favoured digit, unseen."""
    each = map(seeds.__getitem__, range(len(seeds)))
    return figures([Outcome(float(seed.attributes["prior_answer"] == seed.answer)) for seed in each])


class Queries(Sequence):
    """Seeds as queries, drawn when asked for: their images are large."""

    def __init__(self, seeds: Sequence[Any]):
        self._seeds = seeds

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._seeds[index].query()
