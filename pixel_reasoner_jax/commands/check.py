"""`pixel-reasoner check`: whether rollout and trainer agree on a checkpoint, before it is trained."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from data_pipeline.exchange.table_source import open_records
from data_pipeline.reader import QueryReader, RecordError
from pixel_reasoner_jax.checks.findings import Finding
from pixel_reasoner_jax.checks.measure import compare, make_trainer, roll_out
from pixel_reasoner_jax.checks.queries import built_in_queries
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.operations import allow_own
from pixel_reasoner_jax.parallel import make_mesh
from pixel_reasoner_jax.report.text import printable
from pixel_reasoner_jax.rollout import Policy, Query
from pixel_reasoner_jax.rollout.settings import load_policy

RESULTS = {True: "pass", False: "FAIL", None: "measured"}

_log = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> None:
    """A table, what is wrong below it, and one JSON line; a check that fails is an error."""
    for name, least in (("samples", 1), ("count", 1), ("slots", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    allow_own(args.own)
    mesh = make_mesh({axis: getattr(args, f"mesh.{axis}") for axis in ("data", "fsdp", "tensor")})
    rounded = dict(weights=args.weights, cache_dtype=args.cache_dtype)
    mesh = None if mesh.size == 1 else mesh
    policy = load_policy(args.model, dtype=args.dtype, mesh=mesh, slots=args.slots, **rounded)
    queries = read_queries(args.on, args.count, policy) if args.on else built_in_queries()
    with Progress("sampling", len(queries) * args.samples) as progress:
        trajectories = roll_out(policy, queries, args.samples, args.seed, on_response=progress.update)
    print("scoring what was sampled", file=sys.stderr, flush=True)
    findings = compare(policy, make_trainer(policy), trajectories)
    print(table(findings))
    for finding in findings:
        for problem in finding.problems:
            print(f"{finding.name}: {printable(problem)}")
    failed = [finding.name for finding in findings if finding.passed is False]
    checks = {finding.name: {"passed": finding.passed, **finding.figures} for finding in findings}
    print(json.dumps({"passed": not failed, "checks": checks}, allow_nan=False))
    if failed == ["coverage"]:
        others = "other queries, or those that are built in (without --on)" if args.on else "it again"
        raise UserError(f"coverage failed: what was sampled does not show enough of {args.model}: check {others}")
    if failed:
        raise UserError(f"{', '.join(failed)} failed: do not train {args.model} before that is mended")


def table(findings: list[Finding]) -> str:
    """A row for each check: its name, its result and its figures."""
    rows = [(finding.name, RESULTS[finding.passed], finding.says) for finding in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name.ljust(widths[0])}  {result.ljust(widths[1])}  {says}" for name, result, says in rows)


def read_queries(on: str, count: int, policy: Policy) -> list[Query]:
    """The first valid queries of a table or a data set.

    Args:
      on: "data:PATH".
      count: how many.
      policy: that they are valid for.

    Raises:
      UserError: it is no such text, or there is no valid query.
    """
    kind, _, path = on.partition(":")
    if kind != "data" or not path:
        raise UserError(f"--on {on}: it is data:PATH, a table or a data set of queries")
    source, reader = open_records(path, "query"), QueryReader(policy.prompt)
    queries: list[dict[str, Any]] = []
    for index in range(len(source)):
        if len(queries) == count:
            break
        try:
            record = source[index]
        except RecordError as error:  # says where
            _log.warning("left out: %s", error)
            continue
        try:
            queries.append(reader(record))
        except RecordError as error:
            _log.warning("left out: %s: %s", source.location(index), error)
    if not queries:
        raise UserError(f"{path} has no query that can be asked")
    return queries
