"""`pixel-reasoner generate --queries TABLE --out DIR`: many questions, answered into a folder.

The folder holds

    generate.json    what is answered, by what and how; written first
    responses.jsonl  a line for each response, and for each query that cannot be read
    trajectories.jsonl  the conversation of each response, with its log-probabilities; images/: `view` shows them

Killed anywhere, the same command goes on. When all is answered, the lines are put into the order of the queries.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from data_pipeline.exchange.table_source import open_records
from data_pipeline.records import RecordError
from pixel_reasoner_jax.commands.served import opened_policy, temperature_of
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.compare import protocol_differences
from pixel_reasoner_jax.evaluation.line_file import LineFile
from pixel_reasoner_jax.evaluation.records import Key as ResponseKey
from pixel_reasoner_jax.evaluation.trajectories import TrajectoryWriter
from pixel_reasoner_jax.files import as_path, check_folder, fetch, output_directory, write_text
from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.report.text import counted, printable
from pixel_reasoner_jax.report.trajectory_json import trajectory_dict
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.rollout import answered
from pixel_reasoner_jax.trajectory import Trajectory

BEGUN, RESPONSES = "generate.json", "responses.jsonl"
MAX_PROBLEM = 300  # characters of why a query cannot be read

Key = tuple[int, int]
"""The number of a query in the table, from 0, and the sample; of a query that cannot be answered, sample -1."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Answers what the folder does not hold yet, and prints the figures as a line of JSON, which is returned.

    Raises:
      UserError: options that do not go together, a table that cannot be read, or a folder that holds something else. As
        UnansweredError, a served model gave no answer to some queries; the same command asks for them again.
    """
    check_options(args)
    directory, source = as_path(args.out), open_records(args.queries, "query", answered=False)
    check_folder(directory)
    if not len(source):
        raise UserError(f"{args.queries} has no queries to answer")
    with opened_policy(args, directory, slots=args.slots) as (policy, identity):
        _begin(args, directory, source.digest, identity)
        done = {key for key, *_ in _lines(directory)}
        todo = [number for number in range(len(source)) if not _is_answered(number, args.samples, done, source)]
        if todo:
            _answer(args, directory, source, policy, todo, done)
    figures, problem = _finish(directory, args.samples)
    if problem:
        them = counted(figures["unreadable"], "query", "queries")
        print(f"{them} could not be read; the first: {printable(problem)}", file=sys.stderr)
    print(f"responses: {directory / RESPONSES}")
    print(json.dumps(figures, allow_nan=False))
    return figures


def check_options(args: argparse.Namespace) -> None:
    """Raises UserError for options of one question, or where one is missing."""
    for name in ("image", "video", "question", "html"):
        if getattr(args, name):
            raise UserError(f"--{name} is for one question; --queries answers those of a table")
    if not args.out:
        raise UserError("--queries needs --out DIR, the folder for the responses")


def _begin(args: argparse.Namespace, directory: Any, digest: str, identity: dict[str, Any]) -> None:
    """Says in the folder what is answered, or checks that it is what the folder says."""
    names = ("samples", "seed", "max_tokens", "text_only", *(() if args.endpoint else ("dtype",)))
    settings = {name: getattr(args, name) for name in names} | {"temperature": temperature_of(args)}
    description = {"queries": digest, "model": identity, **settings}
    path = directory / BEGUN
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise UserError(f"{path} is no JSON: choose another folder, or remove this one") from None
        changed = [name for name, *_ in protocol_differences(before, description)]
        if changed:
            raise UserError(
                f"{directory} holds responses that differ in {', '.join(changed)[:200]}: choose another folder"
            )
    elif (directory / RESPONSES).exists():
        raise UserError(f"{directory} holds responses, but not what they answer: choose another folder")
    else:
        write_text(path, json.dumps(description, indent=2) + "\n")


def _is_answered(number: int, samples: int, done: set[Key], source: Any) -> bool:
    """Whether a query has all of its responses, or cannot be read, which may have been mended since it was tried."""
    if all((number, sample) in done for sample in range(samples)):
        return True
    if (number, -1) not in done:
        return False
    try:
        source[number]
    except RecordError:
        return True
    return False


def _answer(
    args: argparse.Namespace, directory: Any, source: Any, policy: Any, todo: list[int], done: set[Key]
) -> None:
    """Answers the queries with these numbers, and writes a line for each response that is not there yet."""
    asked: list[int] = []  # the number of each query that the policy was given
    with (
        LineFile(directory, RESPONSES, json.loads) as lines,
        TrajectoryWriter(directory) as trajectories,
        Progress("answering", len(todo) * args.samples, file=sys.stderr) as progress,
    ):
        given = 0

        def count(responses: int) -> None:
            nonlocal given
            given += responses
            progress.update(given)

        def unusable(number: int, error: Exception) -> None:
            lines.append(json.dumps({"row": number, "error": str(error)[:MAX_PROBLEM]}))
            count(args.samples)

        def queries() -> Iterator[dict[str, Any]]:
            for number in todo:
                try:
                    query = source[number]
                except RecordError as error:
                    unusable(number, error)
                    continue
                asked.append(number)
                yield {key: value for key, value in query.items() if key != "answer"}

        options = dict(samples=args.samples, seed=args.seed, temperature=temperature_of(args))
        with policy.stream(queries(), **options) as stream:
            for number, trajectory in answered(stream, lambda error: unusable(asked[error.number], error)):
                if (asked[number], trajectory.sample) not in done:
                    trajectories.write(response_key(asked[number], trajectory.sample), trajectory)
                    lines.append(json.dumps(response_fields(asked[number], trajectory), allow_nan=False))
                count(1)


def response_key(row: int, sample: int) -> ResponseKey:
    """What the trajectory of a response is stored under; a table's ids need not be unique."""
    return "generate", "pixel", str(row), sample


def response_fields(row: int, trajectory: Trajectory) -> dict[str, Any]:
    """A response as its line has it; `row` is the number of its query, from 0."""
    shown = trajectory_dict(trajectory)
    return {
        "row": row,
        "id": trajectory.query_id,
        "sample": trajectory.sample,
        "question": trajectory.question,
        "answer": extract_answer(trajectory.response),
        "response": trajectory.response,
        "operations": shown["operations"],
        "ended": shown["ended"],
        "tokens": trajectory.sampled,
    }


def _lines(directory: Any) -> Iterator[tuple[Key, int]]:
    """The key of each line, and where it begins; a damaged last line, which a killed run leaves, is left out.

    Raises:
      UserError: another line is damaged.
    """
    path = fetch(directory, RESPONSES) / RESPONSES
    if not path.exists():
        return
    with path.open("rb") as file:
        damaged, end = "", 0
        for number, line in enumerate(file, start=1):
            start, end = end, end + len(line)
            if damaged:
                raise UserError(f"{path}: {damaged}: restore it, or remove the folder")
            try:
                fields = json.loads(line)
                key = int(fields["row"]), -1 if "error" in fields else int(fields["sample"])
            except (ValueError, TypeError, KeyError, RecursionError):
                damaged = f"line {number} is no response"
                continue
            if line.endswith(b"\n"):
                yield key, start


def _finish(directory: Any, samples: int) -> tuple[dict[str, Any], str]:
    """Puts the lines in order. Each query has all of its responses, or one line that says why it has none.

    Returns:
      What they come to, and what is wrong with the first query that cannot be read, if there is one.
    """
    starts = dict(sorted(_lines(directory)))
    whole = {row for row, _ in starts if all((row, sample) in starts for sample in range(samples))}
    starts = {
        (row, sample): start
        for (row, sample), start in starts.items()
        if (sample >= 0 if row in whole or (row, -1) not in starts else sample < 0)
    }
    figures: dict[str, Any] = dict(responses=0, unreadable=0, answered=0, operations=0, failed_operations=0, tokens=0)
    ended: collections.Counter[str] = collections.Counter()
    problem = ""
    with output_directory(directory) as local:
        temporary = local / f".{RESPONSES}"
        with temporary.open("wb") as file, (fetch(directory, RESPONSES) / RESPONSES).open("rb") as unordered:
            for start in starts.values():
                unordered.seek(start)
                line = unordered.readline()
                file.write(line)
                fields = json.loads(line)
                if "error" in fields:
                    figures["unreadable"] += 1
                    problem = problem or f"row {fields['row']}: {fields['error']}"
                    continue
                figures["responses"] += 1
                figures["answered"] += fields["answer"] is not None
                figures["operations"] += len(fields["operations"])
                figures["failed_operations"] += sum(not one["succeeded"] for one in fields["operations"])
                figures["tokens"] += fields["tokens"] or 0
                ended[str(fields["ended"])] += 1
        os.replace(temporary, local / RESPONSES)
    return {**figures, "ended": dict(sorted(ended.items()))}, problem
