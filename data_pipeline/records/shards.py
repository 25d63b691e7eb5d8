"""A data set in the making: shards that any process may write, each whole, and the metadata that makes it complete.

A folder holds

    trajectory-train-00000.array_record, -00001, …   (`query-train-…` for queries)
    metadata.json       our own: schema, kind, count, a digest of the content, and of every shard
    features.json       TFDS: the columns
    dataset_info.json   TFDS: name, version, the length of every shard; written last

and until then, beside each finished shard, a hidden file with its count and digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipeline.records.examples import FORMS, KINDS, SCHEMA, encode_record
from data_pipeline.records.media import HERE
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, is_remote, move, write_text

METADATA = "dataset_info.json"
OWN, FEATURES = "metadata.json", "features.json"
SPLIT, FORMAT = "train", "array_record"
TEMPLATE = "{DATASET}-{SPLIT}-{SHARD_INDEX}.{FILEFORMAT}"  # the number of shards need not be known beforehand


class RecordError(UserError):
    """A data set or a record that cannot be read; the message names the file and the record's index in it."""


class RecordShards:
    """The shards of a data set that is being written.

    Several processes may write different shards of one folder. A finished shard is never half there, and is known to
    be finished by whoever comes later; when all are, one process calls `finish`.

    Args:
      directory: made where it is missing; must not hold a complete data set.
      kind: one of `KINDS`.
    """

    def __init__(self, directory: str | os.PathLike, kind: str):
        if kind not in KINDS:
            raise UserError(f"unknown kind of record {kind!r}, expected one of {KINDS}")
        self.directory, self.kind = as_path(directory), kind
        self.directory.mkdir(parents=True, exist_ok=True)
        if (self.directory / METADATA).exists():
            raise UserError(f"{self.directory} already holds a data set; remove it or choose another folder")

    def is_finished(self, number: int) -> bool:
        """Whether shard `number`, from 0, was written."""
        return self._note(number).exists()

    def write(self, number: int, records: Iterable[Any]) -> None:
        """Writes all of a shard, or nothing if `records` raises; what was there before is replaced.

        Args:
          number: of the shard, from 0.
          records: trajectories (`Draft`) or queries (the mappings that rollouts take); they are not held in memory.
        """
        shard = self.open(number)
        try:
            for record in records:
                shard.write(record)
        except BaseException:
            shard.abandon()
            raise
        shard.close()

    def open(self, number: int) -> Shard:
        """A shard to write record by record."""
        self._note(number).unlink(missing_ok=True)
        return Shard(self.directory / shard_name(self.kind, number), self.kind, self._note(number))

    def finish(self, count: int) -> dict[str, Any]:
        """Writes the metadata of `count` shards, after which the data set is complete.

        Returns:
          What `read_description` will.

        Raises:
          RecordError: one of them was not written.
        """
        for number in range(count):
            if not self.is_finished(number):
                raise RecordError(
                    f"shard {number} of {count} in {self.directory} was not written: the data set is not complete"
                )
        shards = [json.loads(self._note(number).read_text()) for number in range(count)]
        description = {
            "schema": SCHEMA,
            "kind": self.kind,
            "count": sum(shard["count"] for shard in shards),
            "digest": hashlib.sha256("".join(shard["digest"] for shard in shards).encode()).hexdigest(),
            "shards": shards,
        }
        write_text(self.directory / OWN, json.dumps(description, indent=1) + "\n")
        self._write_tfds(shards)
        for number in range(count):
            self._note(number).unlink()
        return description

    def clear(self) -> None:
        """Removes the shards of an attempt that did not come to its end."""
        for file in list(self.directory.iterdir()) if self.directory.is_dir() else ():  # no folder is empty on gs://
            if file.name.lstrip(".").startswith(f"{self.kind}-{SPLIT}-"):
                file.unlink()

    def _write_tfds(self, shards: list[dict[str, Any]]) -> None:
        """What TFDS reads; TensorFlow would be needed to let it write the records too."""
        identity = tfds.core.DatasetIdentity(
            name=self.kind,
            version=tfds.core.Version(f"{SCHEMA}.0.0"),
            data_dir=os.fspath(self.directory),
            module_name=__name__,
        )
        info = tfds.core.DatasetInfo(
            builder=identity, features=FORMS[self.kind].features, description=FORMS[self.kind].__doc__
        )
        info.set_file_format(FORMAT)
        template = tfds.core.ShardedFileTemplate(
            data_dir=self.directory, template=TEMPLATE, dataset_name=self.kind, split=SPLIT, filetype_suffix=FORMAT
        )
        lengths, size = [shard["count"] for shard in shards], sum(shard["bytes"] for shard in shards)
        split = tfds.core.SplitInfo(name=SPLIT, shard_lengths=lengths, num_bytes=size, filename_template=template)
        info.set_splits(tfds.core.splits.SplitDict([split]))
        with tempfile.TemporaryDirectory() as scratch:
            info.write_to_directory(scratch)
            for name in (FEATURES, METADATA):
                write_text(self.directory / name, (pathlib.Path(scratch) / name).read_text())

    def _note(self, number: int) -> Any:
        return self.directory / f".{shard_name(self.kind, number)}.json"


class Shard:
    """One shard, written record by record under a temporary name; see `RecordShards.open`."""

    def __init__(self, path: Any, kind: str, note: Any):
        self.count = 0
        self._path, self._kind, self._note = path, kind, note
        self._scratch = tempfile.TemporaryDirectory() if is_remote(path) else None
        folder = pathlib.Path(self._scratch.name) if self._scratch else path.parent
        self._temporary = folder / f"{path.name}.tmp"
        # Groups of one record are read at random; images are compressed already.
        self._writer = ArrayRecordWriter(str(self._temporary), "group_size:1,uncompressed")
        self._held: dict[str, int] = {}
        self._digest, self._bytes = hashlib.sha256(), 0

    def write(self, record: Any) -> None:
        """Adds a record; its media that an earlier one of the shard holds are not stored again."""
        data, media = encode_record(self._kind, record, self._held)
        for entry in media:
            if entry.data and entry.record == HERE:
                self._held[entry.digest] = self.count
        self._writer.write(data)
        self._digest.update(hashlib.sha256(data).digest())
        self._bytes += len(data)
        self.count += 1

    def close(self) -> None:
        """Gives the file its name, then notes that it is finished."""
        self._writer.close()
        move(self._temporary, self._path)
        self._cleanup()
        note = {"file": self._path.name, "count": self.count, "bytes": self._bytes, "digest": self._digest.hexdigest()}
        write_text(self._note, json.dumps(note))

    def abandon(self) -> None:
        """Leaves nothing behind."""
        self._writer.close()
        self._temporary.unlink(missing_ok=True)
        self._cleanup()

    def _cleanup(self) -> None:
        if self._scratch:
            self._scratch.cleanup()


def read_description(directory: str | os.PathLike) -> dict[str, Any]:
    """What `metadata.json` says: schema, kind, count, digest of the content, shards.

    Raises:
      RecordError: the data set is not complete, or of another schema version.
    """
    folder = as_path(directory)
    if not (folder / METADATA).exists():
        raise RecordError(f"{folder / METADATA} is missing: no data set was completed there")
    path = folder / OWN
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path} is missing: {folder} is not a data set of this program") from None
    except ValueError as error:
        raise RecordError(f"{path} is not JSON: {error}") from None
    if description.get("schema") != SCHEMA:
        raise RecordError(
            f"{path} has schema version {description.get('schema')}, this program reads {SCHEMA}: write it anew"
        )
    return description


def shard_name(kind: str, number: int) -> str:
    """The file of shard `number`, as TFDS finds it."""
    return f"{kind}-{SPLIT}-{number:05d}.{FORMAT}"
