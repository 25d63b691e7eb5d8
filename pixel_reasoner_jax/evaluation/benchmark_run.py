"""Evaluates a policy on benchmarks, into a folder; killed anywhere, the same evaluation goes on.

The folder holds

    evaluation.json     what is evaluated: benchmarks, protocols, model; written first
    records.jsonl       a line for each response with its score
    trajectories.jsonl  a line for each response with its conversation and log-probabilities; images/
    unanswered.json     what a served model gave no answer to; there is none of a complete evaluation
    results.json        the figures; written last

A response depends on nothing but its query, the seed and the protocol, so that an evaluation that goes on comes to the
figures that it would have come to unbroken. Of several processes each answers its share of the items, in step, and
writes them into a folder of its own (`process-00001`); the first one merges them at the end. All see the same folder.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.evaluation.answering import Answer, Answerer, Asked, answer, read_items
from pixel_reasoner_jax.evaluation.benchmarks import BENCHMARKS, Benchmark, Item
from pixel_reasoner_jax.evaluation.compare import protocol_differences
from pixel_reasoner_jax.evaluation.identity import versions
from pixel_reasoner_jax.evaluation.protocol import Protocol
from pixel_reasoner_jax.evaluation.records import (
    RECORDS,
    RESULTS,
    ScoredRecord,
    ScoredRecordWriter,
    leave_out_records,
    read_records,
    write_results,
)
from pixel_reasoner_jax.evaluation.tally import benchmark_figures
from pixel_reasoner_jax.evaluation.trajectories import TRAJECTORIES, TrajectoryWriter
from pixel_reasoner_jax.files import as_path, write_text
from pixel_reasoner_jax.parallel import all_gather_json, is_main, wait_for_all
from pixel_reasoner_jax.rollout.served import UnansweredError

BEGUN = "evaluation.json"
UNANSWERED = "unanswered.json"
NAMED = 20  # unreadable items that results name


def name_and_path(text: str, option: str = "--on") -> tuple[str, str]:
    """A benchmark's name, or module:Class, and its path, of "NAME:PATH"; `option` is for the message.

    Raises:
      UserError: it has another form.
    """
    name, _, path = text.partition(":")
    if name not in BENCHMARKS and path:
        more, _, path = path.partition(":")
        name = f"{name}:{more}"
    if name == "pixel_search":
        path = path or "heldout"
    if not path:
        raise UserError(
            f"{option} {text}: it is NAME:PATH, with a name of {', '.join(BENCHMARKS)}, or module:Class:PATH"
        )
    return name, path


def name_benchmarks(asked: Sequence[tuple[str, str]]) -> list[str]:
    """What records call benchmarks, from pairs of a name and a path: the name, with the path where it comes twice."""
    if len(set(asked)) < len(asked):
        raise UserError("the same benchmark is asked for twice")
    counts = collections.Counter(name for name, _ in asked)
    return [name if counts[name] == 1 else f"{name}:{path}" for name, path in asked]


def evaluate_benchmarks(
    asked: Sequence[Asked],
    policy: Callable[[Protocol, str], Answerer],
    directory: str | os.PathLike,
    model: Mapping[str, Any],
    on_progress: Callable[[str, str, int, int], None] | None = None,
) -> dict[str, Any] | None:
    """Answers what the folder does not hold yet, and writes its results.

    Args:
      asked: the benchmarks, with names that differ.
      policy: (protocol, mode) -> what answers, asked for when there is something to answer.
      directory: the folder; made if missing.
      model: what results say of the model; going on with another one is refused.
      on_progress: called with benchmark, mode, and how many of how many responses of this process there are.

    Returns:
      What `results.json` holds; None in all processes but the first.

    Raises:
      UserError: the folder holds another evaluation, or processes see different folders. As UnansweredError, a served
        model gave no answer to some items: the evaluation has no results until the same one has asked for them again.
    """
    for one in asked:
        if not len(one.benchmark):
            raise UserError(f"{one.benchmark.title} has no items to evaluate")
    directory = as_path(directory)
    _begin(asked, directory, model)
    process, count = jax.process_index(), jax.process_count()
    if is_main():
        _merge(directory)
    wait_for_all("merged")
    todo = _todo(asked, directory)
    seen = all_gather_json([len(one.numbers) for one in todo])
    if any(one != seen[0] for one in seen):
        raise UserError(f"processes see different things in {directory}: all of them need to see the same folder")
    if todo:
        if is_main():
            (directory / RESULTS).unlink(missing_ok=True)
        own = directory if is_main() else directory / f"process-{process:05d}"
        unanswered = _Unanswered(own)
        with contextlib.ExitStack() as files:
            records = files.enter_context(ScoredRecordWriter(own))
            trajectories = files.enter_context(TrajectoryWriter(own, directory))
            for one in todo:
                share = dataclasses.replace(one, numbers=one.numbers[process::count])
                keep = _Keeper(records, trajectories, share, on_progress)
                try:
                    answer(one.asked, one.mode, share.numbers, policy(one.asked.protocol, one.mode), keep)
                except UnansweredError as error:
                    unanswered.add(one, error)
        unanswered.raise_if_any()
    wait_for_all("answered")
    if not is_main():
        return None
    _merge(directory)
    _settle(asked, directory)
    results = _results(asked, directory, model)
    write_results(directory, results)
    return results


@dataclasses.dataclass(frozen=True)
class _Todo:
    """What is to be answered of a benchmark in one mode.

    Attributes:
      numbers: of the items that lack a response.
      answered: id and sample of those responses of these items that there are. All samples of an item are answered
        together, and come out as they did.
    """

    asked: Asked
    mode: str
    numbers: Sequence[int]
    answered: frozenset[tuple[str, int]] = frozenset()


class _Unanswered:
    """What a served model gave no answer to: named in a file, and an error once all else is answered."""

    def __init__(self, directory: Any):
        self._file = directory / UNANSWERED
        self._file.unlink(missing_ok=True)
        self._failures: dict[tuple[str, int], str] = {}

    def add(self, todo: _Todo, error: UnansweredError) -> None:
        """Takes note of an error; one that says that the endpoint is down is raised."""
        name = f"{todo.asked.name}, {todo.mode}"
        self._failures |= {(f"{name}: {id}", sample): why for (id, sample), why in error.failures.items()}
        lines = {f"{id}, sample {sample}": why for (id, sample), why in self._failures.items()}
        write_text(self._file, json.dumps(lines, indent=2) + "\n")
        if error.stopped:
            raise error

    def raise_if_any(self) -> None:
        if self._failures:
            raise UnansweredError(self._failures, stopped=False)


class _Keeper:
    """Writes answers: the trajectory first, so that there is one for every record."""

    def __init__(
        self,
        records: ScoredRecordWriter,
        trajectories: TrajectoryWriter,
        todo: _Todo,
        on_progress: Callable[[str, str, int, int], None] | None,
    ):
        self._records, self._trajectories, self._on_progress = records, trajectories, on_progress
        self._todo, self._done = todo, 0

    def __call__(self, answer: Answer) -> None:
        record, samples = answer.record, self._todo.asked.protocol.samples
        if record.unreadable or (record.id, record.sample) not in self._todo.answered:
            if answer.trajectory is not None:
                self._trajectories.write(record.key, answer.trajectory, answer.sources)
            self._records.write(record)
        self._done += samples if record.unreadable else 1
        if self._on_progress:
            total = len(self._todo.numbers) * samples
            self._on_progress(self._todo.asked.name, self._todo.mode, self._done, total)


def _begin(asked: Sequence[Asked], directory: Any, model: Mapping[str, Any]) -> None:
    """Says in the folder what is evaluated, or checks that it is what the folder says."""
    description = {
        "model": dict(model),
        "benchmarks": {
            one.name: {
                "items": len(one.benchmark),
                "rows_digest": one.benchmark.rows_digest,
                "shuffled": one.benchmark.shuffled,
                "protocol": one.protocol.to_json(),
            }
            for one in asked
        },
    }
    path = directory / BEGUN
    wait_for_all("looking")
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise UserError(f"{path} is no JSON: choose another folder, or remove this one") from None
        changed = [
            f"{name} ({shown(a)} there, {shown(b)} now)" for name, a, b in protocol_differences(before, description)
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"{directory} holds an evaluation that differs in {', '.join(changed[:3])}{more}: choose another folder"
            )
    elif (directory / RECORDS).exists():
        raise UserError(f"{directory} holds scored responses, but not what was evaluated: choose another folder")
    wait_for_all("looked")
    if is_main() and not path.exists():
        write_text(path, json.dumps(description, indent=2) + "\n")
    wait_for_all("begun")


def _todo(asked: Sequence[Asked], directory: Any) -> list[_Todo]:
    """What lacks a response, by benchmark and mode; what could not be read and now can is asked as well."""
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    without: dict[tuple[str, str], dict[str, bool]] = {}  # items without a response, and whether they could be read
    if (directory / RECORDS).exists():
        for record in read_records(directory):
            part = record.benchmark, record.mode
            if record.unreadable:
                without.setdefault(part, {})[record.id] = bool(record.question)
            else:
                found.setdefault(part, {}).setdefault(record.id, []).append(record.sample)
    out = []
    for one in asked:
        for mode in one.protocol.modes:
            there, closed = found.get((one.name, mode), {}), without.get((one.name, mode), {})
            numbers, answered = range(len(one.benchmark)), frozenset()
            ids, full = one.benchmark.ids if there or closed else (), one.protocol.samples
            again = _readable(one, [number for number, id in enumerate(ids) if closed.get(id) is False])
            if there or closed:
                done = {id for id, samples in there.items() if len(samples) >= full} | closed.keys()
                numbers = [number for number, id in enumerate(ids) if id not in done or number in again]
                answered = frozenset((ids[n], sample) for n in numbers for sample in there.get(ids[n], ()))
            if len(numbers):
                out.append(_Todo(one, mode, numbers, answered))
    return out


def _readable(asked: Asked, numbers: Sequence[int]) -> set[int]:
    """Those of some items that the first process can read; all processes call this together."""
    found = []
    for number, (item, _, pictures) in zip(numbers, read_items(asked, numbers if is_main() else ()), strict=is_main()):
        if isinstance(item, Item):
            found.append(number)
        for picture in pictures:
            asked.benchmark.pictures.forget(picture)
    return set(all_gather_json(found)[0])


def _settle(asked: Sequence[Asked], directory: Any) -> None:
    """Leaves each item all of its responses, or the one record that it has none."""
    full = {one.name: one.protocol.samples for one in asked}
    responses: collections.Counter[tuple[str, ...]] = collections.Counter()
    without: collections.Counter[tuple[str, ...]] = collections.Counter()
    for record in read_records(directory):
        (without if record.unreadable else responses)[record.key[:-1]] += 1
    mended = {item for item in without if responses[item] >= full[item[0]]}
    if not any(count > 1 or item in responses for item, count in without.items()):
        return

    def is_left_out(record: ScoredRecord) -> bool:
        item = record.key[:-1]
        if not record.unreadable:
            return item in without and item not in mended
        without[item] -= 1
        return item in mended or without[item] > 0

    leave_out_records(directory, is_left_out)


def _merge(directory: Any) -> None:
    """Moves the lines that other processes wrote to the first one's, and leaves one record of each response."""
    parts = sorted(directory.glob("process-*")) if directory.exists() else []
    for part in parts:
        if (part / TRAJECTORIES).exists():
            with TrajectoryWriter(directory) as writer, (part / TRAJECTORIES).open("r", encoding="utf-8") as lines:
                for line in lines:
                    if line.endswith("\n"):
                        writer.append(line[:-1])
        if (part / RECORDS).exists():
            # Killed while merging, a process leaves records that are in both files.
            there = {record.key for record in read_records(directory)} if (directory / RECORDS).exists() else set()
            with ScoredRecordWriter(directory) as writer:
                for record in read_records(part):
                    if record.unreadable or record.key not in there:
                        writer.write(record)
        for file in (TRAJECTORIES, RECORDS):
            (part / file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # an object store has no folders
            part.rmdir()


def _results(asked: Sequence[Asked], directory: Any, model: Mapping[str, Any]) -> dict[str, Any]:
    images: dict[str, dict[str, list[str]]] = {one.name: {} for one in asked}
    problems: dict[str, dict[str, str]] = {one.name: {} for one in asked}
    unjudged: collections.Counter[str] = collections.Counter()

    def noted() -> Iterator[ScoredRecord]:
        for record in read_records(directory):
            if record.images:
                images[record.benchmark][record.id] = list(record.images)
            if record.unreadable and len(problems[record.benchmark]) < NAMED:
                problems[record.benchmark][record.id] = record.problem
            unjudged[record.benchmark] += bool(record.problem) and not record.unreadable
            yield record

    figures = benchmark_figures(noted())
    out = {}
    for one in asked:
        benchmark: Benchmark = one.benchmark
        out[one.name] = {
            **figures.get(one.name, {}),
            "title": benchmark.title,
            "notes": list(benchmark.notes),
            "scorer": one.protocol.scorer,
            "wants_judge": benchmark.wants_judge,
            "unreadable_items": problems[one.name],
            "unjudged": unjudged[one.name],
            "protocol": one.protocol.to_json(),
            "protocol_hash": one.protocol.hash,
            "images": images[one.name],
        }
    return {"benchmarks": out, "model": dict(model), "versions": versions()}
