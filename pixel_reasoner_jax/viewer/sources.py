"""What a folder holds, as entries of the viewer: evaluations, training runs, data sets and answers.

What others wrote is read record by record; one that is damaged, half written or hostile is counted and left out.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.exchange.table_source import open_records
from data_pipeline.inspection.described import described
from data_pipeline.records import DATASET_INFO
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.records import RECORDS, RESULTS, ScoredRecord
from pixel_reasoner_jax.evaluation.trajectories import IMAGES, StoredTrajectories
from pixel_reasoner_jax.files import as_path, is_remote, storage_problem
from pixel_reasoner_jax.metrics import FILE as METRICS
from pixel_reasoner_jax.report.entries import MAX_ITEMS, Entry, Facts, TokenTexts, entry, text_entry
from pixel_reasoner_jax.report.trajectory_json import to_json_types
from pixel_reasoner_jax.training.kept_responses import EVALUATIONS
from pixel_reasoner_jax.training.samples import SAMPLES
from pixel_reasoner_jax.trajectory import OperationRecord, Trajectory
from pixel_reasoner_jax.viewer.lines import Skipped, json_file, objects_of
from pixel_reasoner_jax.viewer.lines import lines_of as whole_lines
from pixel_reasoner_jax.viewer.pictures import Pictures, Stored

RESPONSES = "responses.jsonl"  # of `generate --queries`
MOST_SOURCES = 16
EVALUATED = "evaluation after "  # how the groups of a run's evaluations begin
TABLES = (".jsonl", ".json", ".csv", ".parquet")


@dataclasses.dataclass(frozen=True)
class Found:
    """A folder, or file, that can be shown.

    Attributes:
      path: of it.
      kind: "evaluation", "run", "answers" or "data set".
      name: the last parts of its path, as many as tell it from the others.
    """

    path: pathlib.Path
    kind: str
    name: str = ""


def find_sources(paths: list[str]) -> list[Found]:
    """What the paths hold; of a folder that is none itself, the folders in it.

    Raises:
      UserError: a path holds nothing that can be shown, or there are too many.
    """
    found: list[Found] = []
    for given in paths:
        if is_remote(given):
            raise UserError(f"{given} is in an object store: copy it to this machine, and view the copy")
        path = pathlib.Path(as_path(given)).absolute()
        if not path.exists():
            raise UserError(f"{given}: no such file or folder")
        kind = _kind(path)
        if kind:
            found.append(Found(path, kind))
            continue
        parts = [*_inside(path, depth=2)]
        if not parts:
            raise UserError(
                f"{given} holds nothing to view: give what `evaluate`, `rl`, `sft`, `synthesize` or `generate` wrote"
            )
        found += parts
    if len(found) > MOST_SOURCES:
        raise UserError(f"{len(found)} folders are more than fit beside each other: view {MOST_SOURCES} at most")
    if len({one.path for one in found}) < len(found):
        raise UserError("the same folder is given twice")
    return [dataclasses.replace(one, name=_short_name(one.path, [other.path for other in found])) for one in found]


def _inside(folder: pathlib.Path, depth: int) -> Iterator[Found]:
    """The folders that can be shown in a folder, and in those of its folders that cannot."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or path.is_symlink():
            continue
        if kind := _kind(path):
            yield Found(path, kind)
        elif depth > 1:
            yield from _inside(path, depth - 1)


def _short_name(path: pathlib.Path, others: list[pathlib.Path]) -> str:
    for count in range(1, len(path.parts) + 1):
        if sum(other.parts[-count:] == path.parts[-count:] for other in others) == 1:
            return "/".join(path.parts[-count:])
    return str(path)


def _kind(path: pathlib.Path) -> str | None:
    if path.is_file():
        if path.suffix == ".json" and isinstance(value := json_file(path), dict) and "trajectories" in value:
            return "answers"
        return "data set" if path.suffix in TABLES else None
    kinds = {RECORDS: "evaluation", METRICS: "run", RESPONSES: "answers", DATASET_INFO: "data set"}
    kind = next((kind for name, kind in kinds.items() if (path / name).is_file()), None)
    return kind or ("run" if (path / SAMPLES).is_dir() else None)


def read_entries(
    found: Found, pictures: Pictures, skipped: Skipped, model: str | os.PathLike | None = None, episodes: int = 0
) -> Iterator[Entry]:
    """The entries of a source, one at a time.

    Args:
      found: the source.
      pictures: writes its images.
      skipped: counts what cannot be read.
      model: folder with the tokenizer that wrote the tokens; None: that of the run, if it has one.
      episodes: of a run, so many of the last ones; 0: all.
    """
    if model is None and found.kind == "run":
        folders = (found.path / "initial", found.path / "model")
        model = next((folder for folder in folders if (folder / "tokenizer.json").is_file()), None)
    texts = TokenTexts(model)
    if found.kind == "evaluation":
        return _evaluation(found.path, pictures, texts, skipped)
    if found.kind == "run":
        return _run(found.path, pictures, texts, skipped, episodes)
    if found.kind == "answers":
        return _answers(found.path, pictures, texts, skipped)
    return _data_set(found.path, pictures, texts, skipped, lambda draft: draft.kind)


def _or_skipped(skipped: Skipped, reason: str, where: str, make: Callable[[], Entry]) -> Iterator[Entry]:
    """What `make` returns, if it does: a record that others wrote can fail in any way."""
    try:
        made = make()
        json.dumps([made.row, made.detail], allow_nan=False)
    except Exception as error:
        if storage_problem(error):
            raise
        skipped.add(reason, where)
    else:
        yield made


def _evaluation(directory: pathlib.Path, pictures: Pictures, texts: TokenTexts, skipped: Skipped) -> Iterator[Entry]:
    stored, images = StoredTrajectories(directory), Stored(directory / IMAGES, pictures)
    for number, _, line in whole_lines(directory / RECORDS, skipped):
        where = f"{RECORDS}, line {number}"
        try:
            record = ScoredRecord.from_line(line.decode("utf-8"))
        except (ValueError, TypeError):
            skipped.add("line that is no scored record", where)
            continue
        trajectory = stored.read(record.key, images)
        make = functools.partial(_scored, record, trajectory, pictures, texts)
        yield from _or_skipped(skipped, "record that cannot be shown", where, make)


def _scored(record: ScoredRecord, trajectory: Trajectory | None, pictures: Pictures, texts: TokenTexts) -> Entry:
    names = []
    for kind, value in record.categories.items():
        names += [f"{kind}: {one}" for one in ([value] if isinstance(value, str) else value)]
    facts = Facts(
        group=record.benchmark if record.mode == "pixel" else f"{record.benchmark}, {record.mode}",
        score=record.score,
        answer=record.answer,
        categories=names,
        operations=record.operations,
        failed=record.failed,
        object_box=record.object_box,
        sizes=record.images,
        problem=record.problem,
    )
    if trajectory is None:
        return text_entry(vars(record), facts)
    return entry(trajectory, facts, pictures, texts)


def _run(
    workdir: pathlib.Path, pictures: Pictures, texts: TokenTexts, skipped: Skipped, episodes: int
) -> Iterator[Entry]:
    for number, folder in _numbered(workdir / SAMPLES, DATASET_INFO)[-episodes:]:
        yield from _data_set(folder, pictures, texts, skipped, lambda _, n=number: f"episode {n}")
    for number, folder in _numbered(workdir / EVALUATIONS, RECORDS)[-episodes:]:
        for one in _evaluation(folder, pictures, texts, skipped):
            yield Entry({**one.row, "group": f"{EVALUATED}{number}: {one.row['group']}"}, one.detail)


def _numbered(folder: pathlib.Path, file: str) -> list[tuple[int, pathlib.Path]]:
    """The folders in a run's folder that are named by steps, in order; one without its file may be being written."""
    paths = [path for path in folder.iterdir() if re.fullmatch("[0-9]{1,9}", path.name)] if folder.is_dir() else []
    return sorted((int(path.name), path) for path in paths if (path / file).is_file())


def _data_set(
    path: pathlib.Path, pictures: Pictures, texts: TokenTexts, skipped: Skipped, group: Callable[[Draft], str]
) -> Iterator[Entry]:
    try:
        source = open_records(path)
    except (UserError, OSError) as error:
        skipped.add("data set that cannot be read", str(error))
        return
    for index in range(len(source)):
        where = f"{path.name}, record {index}"

        def make(index: int = index) -> Entry:
            record = source[index]
            if isinstance(record, Draft):
                return entry(*described(record, group(record)), pictures, texts)
            return _query(record, pictures)

        yield from _or_skipped(skipped, "record that cannot be read", where, make)


def _query(query: Mapping[str, Any], pictures: Pictures) -> Entry:
    """A query of a data set, which nobody has answered."""
    images = [{"type": "image", "image": image} for image in query.get("images") or ()]
    video = query.get("video")
    items = [*images, *([{"type": "video", "video": video}] if video is not None else [])]
    question = str(query.get("question", ""))
    messages = [{"role": "user", "content": [*items, {"type": "text", "text": question}]}]
    draft = Draft(str(query.get("id", "")), question, query.get("answer", ""), "", messages)
    return entry(draft.without_tokens(), Facts(group="queries", operations=0, failed=0), pictures, TokenTexts(None))


def _answers(path: pathlib.Path, pictures: Pictures, texts: TokenTexts, skipped: Skipped) -> Iterator[Entry]:
    """What `generate` wrote: the lines of a table's responses with their trajectories, or the JSON of one question."""
    if path.is_dir():
        stored, images = StoredTrajectories(path), Stored(path / IMAGES, pictures)
        for number, fields in objects_of(path / RESPONSES, skipped):
            key = ("generate", "pixel", str(fields.get("row")), fields.get("sample"))
            trajectory = stored.read(key, images)
            make = functools.partial(_answer, fields, trajectory, pictures, texts)
            yield from _or_skipped(skipped, "line that is no response", f"{RESPONSES}, line {number}", make)
        return
    given = json_file(path)
    listed = given.get("trajectories") if isinstance(given, dict) else None
    for number, fields in enumerate(listed if isinstance(listed, list) else (), 1):
        make = functools.partial(_answer, fields, None, pictures, texts)
        yield from _or_skipped(skipped, "response that cannot be read", f"{path.name}, response {number}", make)


def _answer(fields: Mapping[str, Any], trajectory: Trajectory | None, pictures: Pictures, texts: TokenTexts) -> Entry:
    if "error" in fields:
        return text_entry({"id": fields.get("row")}, Facts(group="unreadable", problem=str(fields["error"])))
    made = fields.get("operations") or []
    failed = sum(one.get("succeeded") is False for one in made)
    facts = Facts(answer=fields.get("answer"), operations=len(made), failed=failed)
    if trajectory is not None:
        trajectory.query_id = str(fields.get("id"))
        return entry(trajectory, facts, pictures, texts)
    tokens = fields.get("tokens")
    tokens = tokens.get("sampled") if isinstance(tokens, dict) else tokens
    given = {**to_json_types(dict(fields)), "id": fields.get("id") or fields.get("query_id"), "tokens": tokens}
    if not isinstance(messages := fields.get("messages"), list):
        return text_entry(given, facts)
    calls = [OperationRecord.from_dict({**_CALL, **_plain_call(one)}) for one in made[:MAX_ITEMS]]
    return text_entry(given, facts, messages, calls)


_CALL = {"turn": 0, "name": None, "arguments": None, "error": None, "boxes": (), "sizes": (), "sources": ()}


def _plain_call(one: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a call that a page shows, as `trajectory_dict` writes them."""
    arguments = one.get("arguments")
    return {
        **{name: one[name] for name in ("turn", "name", "error", "sizes") if name in one},
        "arguments": arguments if isinstance(arguments, dict) else None,
    }


def read_results(directory: pathlib.Path) -> Mapping[str, Any]:
    """The figures of an evaluation's benchmarks; empty where it is not finished, or they cannot be read."""
    results = json_file(directory / RESULTS)
    benchmarks = results.get("benchmarks") if isinstance(results, dict) else None
    return benchmarks if isinstance(benchmarks, dict) else {}
