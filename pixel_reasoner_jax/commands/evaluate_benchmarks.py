"""`pixel-reasoner evaluate --on NAME:PATH`: a model on benchmarks and on one's own questions."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_pipeline.exchange.pass_rates import check_pass_rate_copy, write_pass_rates
from pixel_reasoner_jax.commands.served import is_served, open_endpoint, open_judge, paid
from pixel_reasoner_jax.endpoint import Account
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.answering import Asked
from pixel_reasoner_jax.evaluation.benchmark_run import evaluate_benchmarks, name_and_path, name_benchmarks
from pixel_reasoner_jax.evaluation.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from pixel_reasoner_jax.evaluation.benchmarks.data import OwnData
from pixel_reasoner_jax.evaluation.judge import JUDGE, Judge
from pixel_reasoner_jax.evaluation.local_model import LocalModel
from pixel_reasoner_jax.evaluation.pass_rates import pass_rates
from pixel_reasoner_jax.evaluation.protocol import OwnSettings, make_protocol
from pixel_reasoner_jax.evaluation.records import MODES, RESULTS, read_records
from pixel_reasoner_jax.evaluation.scorers import find_scorer
from pixel_reasoner_jax.evaluation.served_model import ServedModel
from pixel_reasoner_jax.files import as_path, check_output, write_text
from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.report.score_tables import benchmark_table
from pixel_reasoner_jax.report.text import counted, printable
from pixel_reasoner_jax.trajectory import Ended

WORLD = {"split": "heldout", "count": 256, "world_seed": 0, "text_only": False, "html": None}  # their defaults
SHOWN = 3  # unreadable items that are named on the terminal
LINE = 200


def run(args: argparse.Namespace) -> None:
    """A table, what the figures stand for, and one JSON line."""
    check_options(args)
    with opened_models(args) as (model, judge), Bars() as bars:
        asked = benchmarks(args, model.own, judge)
        if args.write_pass_rates:
            check_pass_rate_copy(_rated(asked).benchmark.rows.path, args.write_pass_rates)
        results = evaluate_benchmarks(asked, model.policy, args.out, model.description, bars.update)
    if results is None:  # the first process says it
        return
    report(results["benchmarks"])
    if args.submission:
        print(f"submission: {write_submission(args.submission, asked, args.out)}")
    if args.write_pass_rates:
        print(write_rates(_rated(asked), args.out, args.write_pass_rates))
    print(f"results: {as_path(args.out) / RESULTS}")
    kept = ("score", "interval", "count", "unreadable", "rapr", "protocol_hash")
    print(json.dumps({name: {key: one[key] for key in kept} for name, one in results["benchmarks"].items()}))


@contextlib.contextmanager
def opened_models(args: argparse.Namespace) -> Iterator[tuple[LocalModel | ServedModel, Judge | None]]:
    """The model that the options name, here or served, and the judge, if they name one."""
    served, account = is_served(args), Account()
    with contextlib.ExitStack() as stack:
        judge = open_judge(args, args.out, account)
        if judge:
            stack.callback(lambda: print(paid(judge.endpoint, "judge"), file=sys.stderr))
            stack.callback(judge.close)
        if served:
            endpoint = open_endpoint(args, args.out, account)
            stack.callback(lambda: print(paid(endpoint), file=sys.stderr))
            stack.callback(endpoint.close)
            yield ServedModel(endpoint), judge
        else:
            mesh = {axis: getattr(args, f"mesh.{axis}") for axis in ("data", "fsdp", "tensor")}
            yield LocalModel(args.model, args.dtype, mesh, args.slots), judge


def check_options(args: argparse.Namespace) -> None:
    """Raises UserError for options that say nothing about benchmarks, or lack another one."""
    if not args.out:
        raise UserError("--on needs --out DIR, the folder for results, records and trajectories")
    for name, default in WORLD.items():
        if getattr(args, name) != default:
            raise UserError(f"--{name.replace('_', '-')} is of the quickstart's world, which is evaluated without --on")
    if as_path(args.out).is_file():
        raise UserError(f"--out {args.out} is a file: with --on it is a folder")
    if args.submission:
        check_output(args.submission)


def benchmarks(args: argparse.Namespace, own: OwnSettings, judge: Judge | None = None) -> list[Asked]:
    """The benchmarks that `--on` names, each with its protocol."""
    pairs = [name_and_path(text) for text in args.on]
    changes = dict(_part(text) for text in args.set)
    flags = {
        "mode": args.mode,
        "samples": args.samples,
        "seed": args.seed or None,
        "sampling.temperature": args.temperature,
        "limits.max_length": args.max_length,
    }
    changes |= {part: str(value) for part, value in flags.items() if value is not None}
    asked = []
    for label, (name, path) in zip(name_benchmarks(pairs), pairs, strict=True):
        kind = find_benchmark(name)
        metric = {"scorer": args.metric} if args.metric and name == "data" else {}
        protocol = make_protocol(kind, own, args.protocol, {**changes, **metric}, judge and judge.identity)
        asked.append(Asked(label, kind(path, order=protocol.order, seed=protocol.order_seed), protocol, judge))
    if args.metric and not any(name == "data" for name, _ in pairs):
        raise UserError("--metric is for data:PATH; another benchmark's rule is --set scorer=NAME")
    if judge and not any(one.protocol.judge for one in asked):
        wanted = ", ".join(name for name in BENCHMARKS if find_benchmark(name).wants_judge)
        raise UserError(f"--judge is for benchmarks that want one ({wanted}); others take it with --set scorer={JUDGE}")
    if args.submission and len(_submitted(asked)) != 1:
        raise UserError("--submission needs one benchmark whose server takes answers: infovqa, docvqa or textvqa")
    return asked


def _part(text: str) -> tuple[str, str]:
    part, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: it is PART=VALUE, such as budgets.image=256,8000")
    return part, value


def _submitted(asked: Sequence[Asked]) -> list[Asked]:
    return [one for one in asked if type(one.benchmark).submission is not Benchmark.submission]


def _rated(asked: Sequence[Asked]) -> Asked:
    """The data whose pass rates are written."""
    found = [one for one in asked if isinstance(one.benchmark, OwnData)]
    if len(found) != 1:
        raise UserError("--write-pass-rates needs one data:PATH, whose queries get their pass rates")
    return found[0]


def write_rates(one: Asked, directory: str, out: str) -> str:
    """Writes the pass rates of one's own data, with operations if it was asked with them; says what was written."""
    rates = pass_rates(directory, one.name, one.protocol.modes[0], one.benchmark.ids)
    copy = write_pass_rates(one.benchmark.rows.path, out, rates)
    left_out = f", {copy.left_out:,} that cannot be read left out" if copy.left_out else ""
    return f"pass rates: {out} ({copy.count:,} queries, {copy.rated:,} with a rate{left_out})"


def write_submission(path: str, asked: Sequence[Asked], directory: str) -> Any:
    """Writes the answers of the first samples in the form of the benchmark's server; returns the file's path."""
    (one,) = _submitted(asked)
    mode = one.protocol.modes[0]
    answers = {
        record.id: record.answer or ""
        for record in read_records(directory)
        if (record.benchmark, record.mode, record.sample) == (one.name, mode, 0)
    }
    return write_text(path, one.benchmark.submission({id: answers[id] for id in one.benchmark.ids}))


def report(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the table, and below it for each benchmark what its figure stands for and what is odd about it."""
    print(benchmark_table(figures))
    for name, one in figures.items():
        for line in _remarks(one):
            print(f"{_line(name)}: {_line(line)}")


def _remarks(one: Mapping[str, Any]) -> Iterator[str]:
    protocol, judge = one["protocol"], one["protocol"]["judge"]
    by = f"the judge {judge['model']}" if judge else f"the rule {one['scorer']} ({find_scorer(one['scorer']).says})"
    yield f"scored by {by}, protocol {protocol['name']} {one['protocol_hash']}"
    if one["wants_judge"] and not judge:
        yield "its published figures are a judge's, which a rule does not come to: --judge URL --judge-model NAME"
    if one["unjudged"]:
        wrong = counted(one["unjudged"], "response counts", "responses count")
        yield f"{wrong} as wrong, since the judge gave no verdict"
    others = [
        f"{rule} {figures['score']:.3f}"
        for rule, figures in one["scorers"].items()
        if rule != one["scorer"] and figures["score"] is not None
    ]
    if others:
        yield f"by other rules: {', '.join(others)}"
    yield from one["notes"]
    if one["unreadable"]:
        items, them = counted(one["count"], "item", "items"), "counts" if one["unreadable"] == 1 else "count"
        named = list(one["unreadable_items"].items())
        more = f" ({len(named)} are named in {RESULTS})" if len(named) > SHOWN else ""
        yield f"{one['unreadable']} of {items} could not be read, and {them} as wrong{more}:"
        yield from (f"{id} ({problem})" for id, problem in named[:SHOWN])
    if one["unscored"]:
        unscored = counted(one["unscored"], "item has", "items have")
        yield f"{unscored} no score: the answer is withheld, or the rule leaves it out"
    for mode in MODES:
        ended = one.get("modes", {one["mode"]: one}).get(mode, {}).get("ended", {})
        if withheld := ended.get(Ended.WITHHELD):
            refused = counted(withheld, f"response, {mode}, was", f"responses, {mode}, were")
            yield f"{refused} refused by the model or by the filter of who serves it"
        if cut := ended.get(Ended.LENGTH):
            responses = counted(cut, f"response, {mode}, was", f"responses, {mode}, were")
            yield f"{responses} cut by the limit on the length of prompt and response: --max-length"


def _line(text: str) -> str:
    text = " ".join(printable(text).split())
    return text if len(text) <= LINE else f"{text[: LINE - 1]}…"


class Bars:
    """Progress of one benchmark and mode after the other."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._of = ""

    def update(self, benchmark: str, mode: str, done: int, total: int) -> None:
        of = f"{printable(benchmark)[:40]}, {mode}"
        if self._bar is None or of != self._of:
            self.close()
            self._bar, self._of = Progress(of, total, file=sys.stderr), of
        self._bar.update(done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_) -> None:
        self.close()
