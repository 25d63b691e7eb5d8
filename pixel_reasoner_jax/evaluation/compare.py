"""Compares evaluations of the same items: paired differences with intervals, and the items that flipped.

The first evaluation is the baseline; each of the others is compared with it. Comparing reads the scored records twice:
once for the scores, and once for the texts of the few items that are shown, whose trajectories it reads too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.records import MODES, ScoredRecord, read_records, read_results
from pixel_reasoner_jax.evaluation.tally import RIGHT, Tally, difference
from pixel_reasoner_jax.evaluation.trajectories import read_trajectories
from pixel_reasoner_jax.report.comparison_page import FlippedItem, FlippedResponse

NAMED = 5  # ids, or settings, that a message names


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluation as comparing reads it.

    Attributes:
      name: how it is called beside the others.
      directory: of its files.
      protocols: for each benchmark its protocol and the protocol's hash.
      tallies: for each benchmark and mode the scored records.
      questions: for each benchmark a digest of the question of each item by its id, where the records have it.
    """

    name: str
    directory: str
    protocols: dict[str, tuple[dict[str, Any], str | None]]
    tallies: dict[str, dict[str, Tally]]
    questions: dict[str, dict[str, bytes]]

    @classmethod
    def read(cls, directory: str | os.PathLike, name: str) -> Evaluated:
        """Reads the folder that `evaluate --out` wrote.

        Raises:
          UserError: it is no such folder, it is not finished, or what it holds is damaged.
        """
        entries = read_results(directory)["benchmarks"]
        protocols = {
            benchmark: (entry.get("protocol") or {}, entry.get("protocol_hash")) for benchmark, entry in entries.items()
        }
        tallies: dict[str, dict[str, Tally]] = {}
        questions: dict[str, dict[str, bytes]] = {}
        for record in read_records(directory):
            tallies.setdefault(record.benchmark, {}).setdefault(record.mode, Tally()).add(record)
            if record.question:
                text = record.question.encode("utf-8", "surrogatepass")
                digest = hashlib.blake2b(text, digest_size=8).digest()
                questions.setdefault(record.benchmark, {}).setdefault(record.id, digest)
        return cls(name, os.fspath(directory), protocols, tallies, questions)


@dataclasses.dataclass(frozen=True)
class _Side:
    """One evaluation's part in a comparison."""

    run: Evaluated
    benchmark: str
    mode: str

    @property
    def tally(self) -> Tally:
        return self.run.tallies[self.benchmark][self.mode]

    def responses(self, ids: Iterable[str]) -> dict[str, tuple[ScoredRecord, FlippedResponse]]:
        """A response to each of the items: of several the first that is right if the item is, on the whole."""
        scores = self.tally.scores_by_id()
        wanted = {id: scores[id] >= RIGHT for id in ids}
        found: dict[str, ScoredRecord] = {}

        def rank(record: ScoredRecord) -> tuple[bool, int]:
            return ((record.score or 0.0) >= RIGHT) != wanted[record.id], record.sample

        for record in read_records(self.run.directory) if wanted else ():
            if (record.benchmark, record.mode) == (self.benchmark, self.mode) and record.id in wanted:
                found[record.id] = min(found.get(record.id, record), record, key=rank)
        kept = read_trajectories(self.run.directory, [record.key for record in found.values()])
        return {
            id: (
                record,
                FlippedResponse(self.run.name, scores[id], record.answer, record.response, kept.get(record.key)),
            )
            for id, record in found.items()
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was found: `figures` in types that JSON has, `warnings` as sentences, and the flipped items to show."""

    figures: dict[str, Any]
    warnings: list[str]
    flipped: list[FlippedItem]


def compare(directories: Sequence[str | os.PathLike], show: int = 20) -> Comparison:
    """Compares evaluations with the first of them.

    Args:
      directories: two or more folders that `evaluate --out` wrote.
      show: how many flipped items of each benchmark and pair to return with their responses, gained and lost in turn.

    Returns:
      `figures` has `results`, name to folder, `baseline`, the name of the first, and `benchmarks`: for each one that
      all of them have, and `NAME (text)` beside it where all answered it in text mode too, `results`, name to the
      figures of `Tally.figures`, and `differences`, name to those of `tally.difference` from the baseline, with
      `categories` and the ids of the items that flipped, `gained_items` and `lost_items`.

    Raises:
      UserError: fewer than two folders, one that cannot be read, no benchmark in common, or different items.
    """
    if len(directories) < 2:
        raise UserError("one evaluation alone cannot be compared: name two folders or more that `evaluate --out` wrote")
    names = _names([os.fspath(directory) for directory in directories])
    runs = [Evaluated.read(directory, name) for directory, name in zip(directories, names, strict=True)]
    baseline, *others = runs
    common = [benchmark for benchmark in baseline.tallies if all(benchmark in run.tallies for run in others)]
    if not common:
        raise UserError(
            "there is no benchmark in common: "
            + "; ".join(f"{run.directory} has {', '.join(run.tallies) or 'no record'}" for run in runs)
        )
    figures: dict[str, Any] = {}
    warnings, flipped = [*_left_out(runs, common)], []
    for benchmark in common:
        for other in others:
            warnings += _protocol_warnings(benchmark, baseline, other)
        for modes in _paired_modes(benchmark, runs):
            sides = [_Side(run, benchmark, mode) for run, mode in zip(runs, modes, strict=True)]
            title = benchmark if modes[0] == _first_mode(baseline, benchmark) else f"{benchmark} ({modes[0]})"
            figures[title] = {"results": {side.run.name: side.tally.figures() for side in sides}, "differences": {}}
            for side in sides[1:]:
                _check_same_items(sides[0], side)
                warnings += _mode_warnings(sides[0], side)
                found = figures[title]["differences"][side.run.name] = _difference(sides[0].tally, side.tally)
                flipped += _shown_items(title, sides[0], side, found, show)
    results = dict(zip(names, (run.directory for run in runs), strict=True))
    return Comparison({"results": results, "baseline": names[0], "benchmarks": figures}, warnings, flipped)


def protocol_differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two protocols differ: dotted name and both values; None for what one of them lacks."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            name = f"{path}.{key}" if path else str(key)
            yield from protocol_differences(before.get(key), after.get(key), name)
    elif before != after:
        yield path, before, after


def _names(directories: Sequence[str]) -> list[str]:
    """Short names that tell folders apart: as many of their last parts as that takes; numbered if they are the same."""
    parts = [directory.replace(os.sep, "/").rstrip("/").split("/") for directory in directories]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {name}" for number, name in enumerate(names, 1)]


def _left_out(runs: Sequence[Evaluated], common: Sequence[str]) -> Iterator[str]:
    """Benchmarks that only some of the evaluations have."""
    for run in runs:
        if others := [benchmark for benchmark in run.tallies if benchmark not in common]:
            yield f"not compared, since not all have it: {_some(others)} of {run.name}"


def _check_same_items(baseline: _Side, other: _Side) -> None:
    """Refuses evaluations of different items, and names these."""
    sides = (baseline, other)
    ids = [set(side.tally.ids) for side in sides]
    missing = [sorted(ids[1] - ids[0]), sorted(ids[0] - ids[1])]
    said = [
        f"{len(lacks)} are not in {side.run.directory} ({_some(lacks)})"
        for side, lacks in zip(sides, missing, strict=True)
        if lacks
    ]
    asked = [side.run.questions.get(side.benchmark, {}) for side in sides]
    if changed := sorted(id for id in asked[0].keys() & asked[1].keys() if asked[0][id] != asked[1][id]):
        said.append(f"{len(changed)} have another question there than here ({_some(changed)})")
    if said:
        raise UserError(
            f"{baseline.run.directory} and {other.run.directory} answered different items of {baseline.benchmark}: "
            f"{'; '.join(said)}. Evaluate both on the same data"
        )


def _mode_warnings(baseline: _Side, other: _Side) -> Iterator[str]:
    if baseline.mode != other.mode:
        modes = f"{baseline.mode} in {baseline.run.name} and {other.mode} in {other.run.name}"
        yield f"the modes of {baseline.benchmark} differ: {modes}"


def _protocol_warnings(benchmark: str, baseline: Evaluated, other: Evaluated) -> Iterator[str]:
    (before, first), (after, second) = (run.protocols.get(benchmark, ({}, None)) for run in (baseline, other))
    found = [*protocol_differences(before, after)]
    if first == second and not found:
        return
    said = [f"{name} ({_shown(a)} and {_shown(b)})" for name, a, b in found[:NAMED]]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    what = f"in {', '.join(said)}{more}" if said else f"in their hashes alone ({_shown(first)} and {_shown(second)})"
    yield f"the protocols of {benchmark} in {baseline.name} and {other.name} differ {what}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name)[1:-1][:80] for name in names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown}, …"


def _first_mode(run: Evaluated, benchmark: str) -> str:
    return next(mode for mode in MODES if mode in run.tallies[benchmark])


def _paired_modes(benchmark: str, runs: Sequence[Evaluated]) -> list[tuple[str, ...]]:
    """For each comparison the mode of each run: a mode that all have, or if there is none, each run's own."""
    shared = [mode for mode in MODES if all(mode in run.tallies[benchmark] for run in runs)]
    return [(mode,) * len(runs) for mode in shared] or [tuple(_first_mode(run, benchmark) for run in runs)]


def _difference(baseline: Tally, other: Tally) -> dict[str, Any]:
    ids = baseline.ids
    gained, lost = _flipped(baseline, other)
    return {
        **difference(baseline, other),
        "categories": {
            name: difference(baseline, other, [ids[item] for item in category["items"]])
            for name, category in baseline.categories().items()
        },
        "gained_items": gained,
        "lost_items": lost,
    }


def _flipped(baseline: Tally, other: Tally) -> tuple[list[str], list[str]]:
    """Ids of the items that are right in `other` alone, and in `baseline` alone."""
    before, after = baseline.scores_by_id(), other.scores_by_id()
    both = [id for id in before if id in after]
    gained = [id for id in both if before[id] < RIGHT <= after[id]]
    return gained, [id for id in both if after[id] < RIGHT <= before[id]]


def _shown_items(
    title: str, baseline: _Side, other: _Side, found: Mapping[str, Any], show: int
) -> Iterator[FlippedItem]:
    """At most `show` flipped items with a response of each, as many lost ones as gained if there are enough."""
    gained, lost = found["gained_items"], found["lost_items"]
    count = min(len(gained), max(show - len(lost), (show + 1) // 2))
    ids = [*gained[:count], *lost[: show - count]]
    before, after = baseline.responses(ids), other.responses(ids)
    for id in ids:
        record = before[id][0]
        yield FlippedItem(title, id, record.question, record.reference, (before[id][1], after[id][1]))
