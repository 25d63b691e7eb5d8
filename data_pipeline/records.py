"""Trajectories and queries on disk: numbered ArrayRecord shards and one JSON file that describes them.

A record is a msgpack map. Its media are stored in it once, as the bytes of an image file or as a path, and content
items refer to them by number. Nothing is pickled: what is read is data. Shards are written whole under a temporary
name and then renamed, and `dataset.json` comes last, so a folder that has one is complete.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from data_pipeline.synthesis import Draft
from pixel_reasoner_jax.files import as_path, fetch, write_text, written
from pixel_reasoner_jax.processing import Picture
from pixel_reasoner_jax.trajectory import OperationRecord

SCHEMA = 2
METADATA = "dataset.json"
KINDS = ("trajectory", "query")


class RecordError(ValueError):
    """A data set or a record that cannot be read; the message names the file and the record's index in it."""


class RecordWriter:
    """Writes records to a folder; a context manager that leaves no `dataset.json` when its body fails.

    Args:
      directory: made where it is missing; must not hold a data set already.
      kind: one of `KINDS`.
      shard_size: records in a shard.
    """

    def __init__(self, directory: str | Path, kind: str, shard_size: int = 1024):
        if kind not in KINDS:
            raise ValueError(f"unknown kind of record {kind!r}, expected one of {KINDS}")
        if shard_size < 1:
            raise ValueError(f"a shard holds at least one record, got a shard size of {shard_size}")
        self._directory, self._kind, self._shard_size = as_path(directory), kind, shard_size
        self._directory.mkdir(parents=True, exist_ok=True)
        if (self._directory / METADATA).exists():
            raise FileExistsError(f"{self._directory} already holds a data set; remove it or choose another folder")
        self._shards: list[dict[str, Any]] = []
        self._pending: list[bytes] = []

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is None:
            self.close()

    def write(self, record: Draft | Mapping[str, Any]) -> None:
        """Adds a trajectory (`Draft`) or a query (the mapping that rollouts take)."""
        encode = encode_trajectory if self._kind == "trajectory" else encode_query
        self._pending.append(encode(record))
        if len(self._pending) == self._shard_size:
            self._flush()

    def close(self) -> None:
        """Writes what is pending, then the description that makes the data set complete."""
        self._flush()
        description = {
            "schema": SCHEMA,
            "kind": self._kind,
            "count": sum(shard["count"] for shard in self._shards),
            "digest": hashlib.sha256("".join(shard["digest"] for shard in self._shards).encode()).hexdigest(),
            "shards": self._shards,
        }
        write_text(self._directory / METADATA, json.dumps(description, indent=1) + "\n")

    def _flush(self) -> None:
        if not self._pending:
            return
        name = f"{self._kind}-{len(self._shards):05d}.array_record"
        digest = hashlib.sha256()
        with written(self._directory) as folder:
            temporary = folder / f"{name}.tmp"
            # Groups of one record are read at random; images are compressed already.
            writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
            for record in self._pending:
                writer.write(record)
                digest.update(hashlib.sha256(record).digest())
            writer.close()
            os.replace(temporary, folder / name)
        self._shards.append({"file": name, "count": len(self._pending), "digest": digest.hexdigest()})
        self._pending = []


class RecordSource:
    """A data set as a sequence of decoded records, for random access from any thread or process.

    Args:
      directory: what a `RecordWriter` wrote.
      kind: what it must hold, one of `KINDS`.

    Raises:
      RecordError: there is no complete data set of this kind, or it has another schema version.
    """

    def __init__(self, directory: str | Path, kind: str):
        self.directory, self.kind = as_path(directory), kind
        description = read_description(directory)
        if description["kind"] != kind:
            raise RecordError(f"{directory} holds records of kind {description['kind']!r}, expected {kind!r}")
        self.digest: str = description["digest"]
        shards = description["shards"]
        self._files = [self.directory / shard["file"] for shard in shards]
        self._ends = list(itertools.accumulate(shard["count"] for shard in shards))
        for path in self._files:
            if not path.exists():
                raise RecordError(f"{path} is missing, though {METADATA} lists it")
        local = fetch(directory, "*.array_record")
        # The counts are known: no file has to be opened before it is read.
        self._shards = [ArrayRecordDataSource(f"{local / shard['file']}[0:{shard['count']}]") for shard in shards]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        """The record; a trajectory as `Draft`, a query as a mapping.

        Raises:
          RecordError: it cannot be read; IndexError: there is no such record.
        """
        shard, position = self._locate(index)
        decode = decode_trajectory if self.kind == "trajectory" else decode_query
        try:
            return decode(self._shards[shard][position])
        except Exception as error:  # the readers below fail in many ways; all of them mean a broken record
            raise RecordError(f"{self.place(index)}: cannot be read: {error}") from error

    def place(self, index: int) -> str:
        """The file of a record and its index in it, for messages."""
        shard, position = self._locate(index)
        return f"{self._files[shard]}, record {position}"

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.directory}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, int(index) - (self._ends[shard - 1] if shard else 0)

    def __repr__(self) -> str:
        return f"RecordSource({str(self.directory)!r}, {self.kind!r}, digest={self.digest!r})"


def write_records(directory: str | Path, kind: str, records: Iterable[Any], shard_size: int = 1024) -> None:
    """Writes all of `records`; see `RecordWriter`."""
    with RecordWriter(directory, kind, shard_size) as writer:
        for record in records:
            writer.write(record)


def read_description(directory: str | Path) -> dict[str, Any]:
    """What `dataset.json` says: schema, kind, count, digest of the content, shards."""
    path = as_path(directory) / METADATA
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path} is missing: no data set was completed there") from None
    except ValueError as error:
        raise RecordError(f"{path} is not JSON: {error}") from None
    if description.get("schema") != SCHEMA:
        raise RecordError(
            f"{path} has schema version {description.get('schema')}, this program reads {SCHEMA}: write it anew"
        )
    return description


def encode_trajectory(draft: Draft) -> bytes:
    """A written trajectory as the bytes of a record."""
    media = _MediaTable()
    return _pack(
        media,
        kind="trajectory",
        query_id=draft.query_id,
        question=draft.question,
        reference=draft.reference,
        template=draft.kind,
        messages=[{**message, "content": media.strip(message["content"])} for message in draft.messages],
        operations=[dataclasses.asdict(operation) for operation in draft.operations],
        attributes=draft.attributes,
    )


def decode_trajectory(record: bytes) -> Draft:
    """The trajectory of a record; images are decoded when they are first used."""
    fields, media = _unpack(record, "trajectory")
    return Draft(
        query_id=fields["query_id"],
        question=fields["question"],
        reference=fields["reference"],
        kind=fields["template"],
        messages=[{**m, "content": [_restored(item, media) for item in m["content"]]} for m in fields["messages"]],
        operations=tuple(_operation(operation) for operation in fields["operations"]),
        attributes=fields["attributes"],
    )


def encode_query(query: Mapping[str, Any]) -> bytes:
    """A query as the bytes of a record."""
    media = _MediaTable()
    fields = dict(query)
    if "images" in fields:
        fields["images"] = [media.add(image) for image in fields["images"]]
    if fields.get("video") is not None:
        fields["video"] = media.add_video(fields["video"])
    return _pack(media, kind="query", query=fields)


def decode_query(record: bytes) -> dict[str, Any]:
    """The query of a record; images are decoded when they are first used."""
    fields, media = _unpack(record, "query")
    query = fields["query"]
    if "images" in query:
        query["images"] = [media[number] for number in query["images"]]
    if query.get("video") is not None:
        query["video"] = _video(query["video"], media)
    return query


class _MediaTable:
    """The media of one record, each stored once."""

    def __init__(self):
        self.entries: list[bytes | str] = []
        self._numbers: dict[bytes | str, int] = {}

    def add(self, source: Image.Image | Picture | bytes | str | os.PathLike) -> int:
        """The number of an image (encoded losslessly) or of a file (kept as bytes or as a path)."""
        image = source.load() if isinstance(source, Picture) else source
        entry = _png(image) if isinstance(image, Image.Image) else image
        entry = entry if isinstance(entry, bytes) else os.fspath(entry)
        if entry not in self._numbers:
            self._numbers[entry] = len(self.entries)
            self.entries.append(entry)
        return self._numbers[entry]

    def add_video(self, source: Any) -> int | list[int]:
        """Of a file, its number; of a list of frames, theirs."""
        return [self.add(frame) for frame in source] if isinstance(source, list | tuple) else self.add(source)

    def strip(self, content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A message's content with numbers in place of media."""
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        add = {"image": self.add, "video": self.add_video}
        return [{key: add[key](value) if key in add else value for key, value in item.items()} for item in items]


def _restored(item: dict[str, Any], media: list) -> dict[str, Any]:
    if item["type"] == "image":
        return {**item, "image": media[item["image"]]}
    if item["type"] == "video":
        return {**item, "video": _video(item["video"], media)}
    return item


def _video(numbers: int | list[int], media: list) -> Any:
    return [media[number] for number in numbers] if isinstance(numbers, list) else media[numbers]


def _pack(media: _MediaTable, **fields: Any) -> bytes:
    return msgpack.packb({"schema": SCHEMA, **fields, "media": media.entries})


def _unpack(record: bytes, kind: str) -> tuple[dict[str, Any], list[bytes | str]]:
    fields = msgpack.unpackb(record)
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA or fields.get("kind") != kind:
        raise ValueError(f"not a {kind} of schema version {SCHEMA}")
    return fields, fields["media"]


def _operation(fields: dict[str, Any]) -> OperationRecord:
    boxes, sizes = (tuple(tuple(row) for row in fields.pop(name)) for name in ("boxes", "sizes"))
    sources = tuple(fields.pop("sources"))
    return OperationRecord(**fields, boxes=boxes, sizes=sizes, sources=sources)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # The fastest level that compresses: higher ones cost several times as much and save little.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
