"""The files of an evaluation: `records.jsonl`, a line for each scored response, and `results.json`, what they come to.

A line is written whole by one call of the system, so that an evaluation that is killed leaves at most one damaged line,
the last one, which reading leaves out and going on takes away. What the lines say was written by models and data sets:
texts are cut, and nothing in a line is taken for a path.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import MissingFileError, UserError
from pixel_reasoner_jax.evaluation.line_file import LineFile
from pixel_reasoner_jax.files import as_path, fetch, write_text
from pixel_reasoner_jax.query import FractionBox, fraction_box
from pixel_reasoner_jax.report.lineage import prompt_items
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.trajectory import Trajectory

RECORDS = "records.jsonl"
RESULTS = "results.json"
MODES = ("pixel", "text")  # with operations, and without
MAX_TEXT = 4_000  # characters of a text that are kept: enough to look at, whatever a model wrote


Key = tuple[str, str, str, int]
"""Benchmark, mode, item and sample: `ScoredRecord.key`."""


@dataclasses.dataclass(frozen=True)
class ScoredRecord:
    """One response to one item of a benchmark, scored.

    Attributes:
      benchmark: its name.
      id: of the item, unique in the benchmark.
      sample: which of the item's responses it is, from 0.
      mode: one of `MODES`.
      score: by the protocol's scorer, in [0, 1]; None where the item has no answer to score against, or the scorer
        leaves the response out.
      scores: by each known scorer, the protocol's included.
      answer: the text that the scorer took from the response; None if it found none.
      categories: a kind of category to the item's own: a name, or a list of names that lead from the widest to the
        narrowest, each a category too.
      cluster: names what the item shares with others, such as its image; None if it shares nothing.
      operations: calls made, failed ones included.
      failed: how many of them failed.
      ended: why the response ended, a value of `trajectory.Ended`; None if that is unknown.
      tokens: sampled tokens; None if they were not counted.
      seconds: that the response took; None if they were not counted.
      unreadable: the item could not be read, or the policy cannot be asked about it: it was not answered, and scores 0.
      problem: what could not be read of it, or why its judge gave no verdict.
      images: the sizes of the query's images after resizing, "WIDTHxHEIGHT"; of a video "WIDTHxHEIGHTxFRAMES".
      order: where each option that was shown stood in the file; empty where they were shown in the file's order.
      object_box: where what is asked about is in the first image; None where that is unknown.
      question, reference, response: texts to show, the response's being its last turn. An item that could not be read
        has no question.
    """

    benchmark: str
    id: str
    sample: int = 0
    mode: str = MODES[0]
    score: float | None = None
    scores: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    answer: str | None = None
    categories: Mapping[str, str | list[str]] = dataclasses.field(default_factory=dict)
    cluster: str | None = None
    operations: int = 0
    failed: int = 0
    ended: str | None = None
    tokens: int | None = None
    seconds: float | None = None
    unreadable: bool = False
    problem: str = ""
    images: Sequence[str] = ()
    order: Sequence[int] = ()
    object_box: FractionBox | None = None
    question: str = ""
    reference: str | list[str] = ""
    response: str = ""

    @classmethod
    def of(cls, trajectory: Trajectory, benchmark: str, score: float | None, **more: Any) -> ScoredRecord:
        """The record of a response.

        Args:
          trajectory: the response; the item's id is its query's.
          benchmark, score: see the attributes.
          more: other attributes, such as `categories`, or `answer`, if a scorer took another one than `extract_answer`.
        """
        response = trajectory.response
        if "answer" not in more:
            more["answer"] = extract_answer(response)
        fields = dict(
            benchmark=benchmark,
            id=trajectory.query_id,
            sample=trajectory.sample,
            score=None if score is None else float(score),
            operations=len(trajectory.operations),
            failed=sum(not operation.succeeded for operation in trajectory.operations),
            ended=None if trajectory.ended is None else str(trajectory.ended),
            tokens=trajectory.sampled,
            images=_query_sizes(trajectory),
            object_box=trajectory.object_box,
            question=trajectory.question,
            reference=trajectory.reference,
            response=response,
        )
        return cls(**{**fields, **more})

    @property
    def key(self) -> Key:
        """What is answered once: benchmark, mode, item and sample, which is -1 where the item has no response."""
        return self.benchmark, self.mode, self.id, -1 if self.unreadable else self.sample

    def line(self) -> str:
        """The record as one line of JSON without its end; long texts are cut."""
        texts = {name: _cut(getattr(self, name)) for name in ("answer", "problem", "question", "reference", "response")}
        return json.dumps({**vars(self), **texts}, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> ScoredRecord:
        """Reads what `line` wrote.

        Raises:
          ValueError: it is no such line; the message says what is wrong with it.
        """
        try:
            fields = json.loads(line)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")
        for name, value in fields.items():
            if name not in _VALID:
                raise ValueError(f"it has an unknown field {name[:80]!r}")
            if not _VALID[name](value):
                raise ValueError(f"its {name} is {repr(value)[:80]}")
        if missing := {"benchmark", "id"} - fields.keys():
            raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
        fields |= {name: tuple(fields.get(name, ())) for name in ("images", "order")}
        box = fields.get("object_box")
        record = cls(**{**fields, "object_box": box and tuple(box)})
        if record.failed > record.operations:
            raise ValueError(f"it has {record.failed} failed calls of {record.operations}")
        return record


def _query_sizes(trajectory: Trajectory) -> tuple[str, ...]:
    """The sizes of the media before the first turn of the assistant, for `ScoredRecord.images`."""
    count = sum(item.get("type") in ("image", "video") for item in prompt_items(trajectory))
    sizes = []
    for media in trajectory.media[:count]:
        frames = (media.grid[0] * media.temporal_patch_size,) if media.kind == "video" else ()
        sizes.append("x".join(map(str, (*media.size, *frames))))
    return tuple(sizes)


def _is_score(value: Any) -> bool:
    return value is None or (_is_number(value) and 0.0 <= value <= 1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and bool(value) and all(map(_is_text, value)))


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


_VALID = {
    "benchmark": lambda value: _is_text(value) and value,
    "id": _is_text,
    "sample": _is_count,
    "mode": lambda value: value in MODES,
    "score": _is_score,
    "scores": lambda value: isinstance(value, dict) and all(map(_is_score, value.values())),
    "answer": lambda value: value is None or _is_text(value),
    "categories": lambda value: isinstance(value, dict) and all(map(_are_texts, value.values())),
    "cluster": lambda value: value is None or _is_text(value),
    "operations": _is_count,
    "failed": _is_count,
    "ended": lambda value: value is None or _is_text(value),
    "tokens": lambda value: value is None or _is_count(value),
    "seconds": lambda value: value is None or _is_duration(value),
    "unreadable": lambda value: isinstance(value, bool),
    "problem": _is_text,
    "images": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "order": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "object_box": lambda value: value is None or fraction_box(value) is not None,
    "question": _is_text,
    "reference": lambda value: value == [] or _are_texts(value),
    "response": _is_text,
}


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[: MAX_TEXT - 1] + "…"
    if isinstance(value, list | tuple):
        return [_cut(item) for item in value]
    return value


class ScoredRecordWriter(LineFile):
    """Appends to the `records.jsonl` of an evaluation, which may have been begun before; see `LineFile`."""

    def __init__(self, directory: str | os.PathLike):
        super().__init__(directory, RECORDS, ScoredRecord.from_line)

    def write(self, record: ScoredRecord) -> None:
        self.append(record.line())


def read_records(directory: str | os.PathLike) -> Iterator[ScoredRecord]:
    """The scored records of an evaluation, one at a time, in the order in which they were written.

    A damaged last line, which a killed evaluation leaves, is left out.

    Raises:
      MissingFileError: there is no such file.
      UserError: another line is damaged.
    """
    path = fetch(directory, RECORDS) / RECORDS
    if not path.exists():
        raise MissingFileError(f"{as_path(directory)} has no {RECORDS}: is it what `evaluate --out` wrote?")
    with path.open("rb") as file:
        damaged: str | None = None
        for number, line in enumerate(file, 1):
            if damaged:
                raise UserError(f"{path}: {damaged}")
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("it has no end")
                record = ScoredRecord.from_line(line.decode("utf-8"))
            except ValueError as error:
                damaged = f"line {number} is no scored record: {str(error)[:200]}"
                continue
            yield record


def leave_out_records(directory: str | os.PathLike, is_left_out: Callable[[ScoredRecord], bool]) -> None:
    """Replaces an evaluation's file by one without some of its records."""
    kept = [f"{record.line()}\n" for record in read_records(directory) if not is_left_out(record)]
    write_text(as_path(directory) / RECORDS, "".join(kept))


def write_results(directory: str | os.PathLike, results: Mapping[str, Any]) -> None:
    """Writes `results.json`, atomically; `results` has `benchmarks`, a name to its figures, protocol and its hash."""
    write_text(as_path(directory) / RESULTS, json.dumps(results, indent=2, allow_nan=False) + "\n")


def read_results(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads what `write_results` wrote.

    Raises:
      MissingFileError: there is no such file, since the evaluation is not finished or this is none.
      UserError: the file does not hold results.
    """
    path = as_path(directory) / RESULTS
    if not path.exists():
        begun = (as_path(directory) / RECORDS).exists()
        why = "it is not finished; run it again, and it goes on" if begun else "is it what `evaluate --out` wrote?"
        raise MissingFileError(f"{path.parent} has no {RESULTS}: {why}")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {str(error)[:80]}") from None
    benchmarks = results.get("benchmarks") if isinstance(results, dict) else None
    if not isinstance(benchmarks, dict) or not all(isinstance(entry, dict) for entry in benchmarks.values()):
        raise UserError(f"{path} has no `benchmarks`: it is not the results of an evaluation")
    return results
