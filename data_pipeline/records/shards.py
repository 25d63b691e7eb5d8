"""Writing a data set: any process may write a shard; when all are there, metadata make the data set complete.

A folder holds

    trajectory-train-00000.array_record, -00001, …   (`query-train-…` for queries)
    metadata.json       our description: schema, kind, count, a digest of the content, and of every shard
    features.json       TFDS: the columns
    dataset_info.json   TFDS: name, version, the length of every shard; written last

Until the data set is complete, a hidden file beside each finished shard notes its count and digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipeline.reader import RecordError, check_form, errors_named
from data_pipeline.records.examples import CODECS, RECORD_KINDS, SCHEMA, encode_record
from data_pipeline.records.media import THIS_RECORD
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import (
    StorageError,
    as_path,
    check_folder,
    is_remote,
    move,
    storage_problem,
    write_text,
)

DATASET_INFO = "dataset_info.json"
DESCRIPTION, FEATURES = "metadata.json", "features.json"
SPLIT, FILE_FORMAT = "train", "array_record"
FILENAME_TEMPLATE = "{DATASET}-{SPLIT}-{SHARD_INDEX}.{FILEFORMAT}"  # the number of shards need not be known beforehand


class RecordShards:
    """The shards of a data set that is being written.

    Several processes may write different shards of one folder. A shard appears under its name only when it is
    complete, and `is_finished` then tells every process so. When all are finished, one process calls `finish`.

    Args:
      directory: created if missing; must not hold a complete data set, unless that is to be extended.
      kind: one of `RECORD_KINDS`.
      extend: add shards to the data set that the folder holds, if it does; its own stay as they are.

    Raises:
      UserError: an unknown kind, a file where the folder is to be, or the folder holds a data set already.
    """

    def __init__(self, directory: str | os.PathLike, kind: str, extend: bool = False):
        if kind not in RECORD_KINDS:
            raise UserError(f"unknown kind of record {kind!r}, expected one of {RECORD_KINDS}")
        self.directory, self.kind = as_path(directory), kind
        check_folder(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._kept: list[dict[str, Any]] = []
        if (self.directory / DATASET_INFO).exists():
            if not extend:
                raise UserError(f"{self.directory} already holds a data set; remove it or choose another folder")
            self._kept = read_description(self.directory)["shards"]

    def is_finished(self, number: int) -> bool:
        """Whether shard `number`, counted from 0, was written completely."""
        return number < len(self._kept) or self._note(number).exists()

    def write(self, number: int, records: Iterable[Any]) -> None:
        """Writes a shard, replacing an older one; if `records` raises, no shard is left.

        Args:
          number: of the shard, from 0.
          records: trajectories (`Draft`) or queries (mappings as rollouts take them), read one at a time.
        """
        shard = self.open(number)
        try:
            for record in records:
                shard.write(record)
        except BaseException:
            shard.abandon()
            raise
        shard.close()

    def open(self, number: int) -> ShardWriter:
        """Begins a shard that is written record by record.

        Raises:
          UserError: the data set that is extended has this shard.
        """
        if number < len(self._kept):
            raise UserError(f"shard {number} belongs to the data set in {self.directory}, which is only extended")
        self._note(number).unlink(missing_ok=True)
        return ShardWriter(self.directory / shard_name(self.kind, number), self.kind, self._note(number))

    def finish(self, count: int) -> dict[str, Any]:
        """Writes the metadata of `count` shards, after which the data set is complete.

        Returns:
          The description, as `read_description` reads it.

        Raises:
          RecordError: a shard was not written.
        """
        for number in range(count):
            if not self.is_finished(number):
                raise RecordError(
                    f"shard {number} of {count} in {self.directory} was not written: the data set is not complete"
                )
        written = range(len(self._kept), count)
        shards = [*self._kept, *(json.loads(self._note(number).read_text()) for number in written)]
        description = {
            "schema": SCHEMA,
            "kind": self.kind,
            "count": sum(shard["count"] for shard in shards),
            "digest": hashlib.sha256("".join(shard["digest"] for shard in shards).encode()).hexdigest(),
            "shards": shards,
        }
        write_text(self.directory / DESCRIPTION, json.dumps(description, indent=1) + "\n")
        self._write_tfds(shards)
        for number in written:
            self._note(number).unlink()
        return description

    def clear(self) -> None:
        """Removes the shards that an unfinished attempt left."""
        for file in list(self.directory.iterdir()) if self.directory.is_dir() else ():  # no folder is empty on gs://
            if file.name.lstrip(".").startswith(f"{self.kind}-{SPLIT}-"):
                file.unlink()

    def _write_tfds(self, shards: list[dict[str, Any]]) -> None:
        """Writes TFDS's own metadata files. (TFDS writes records only with TensorFlow, so we write those ourselves.)"""
        identity = tfds.core.DatasetIdentity(
            name=self.kind,
            version=tfds.core.Version(f"{SCHEMA}.0.0"),
            data_dir=os.fspath(self.directory),
            module_name=__name__,
        )
        info = tfds.core.DatasetInfo(
            builder=identity, features=CODECS[self.kind].features, description=CODECS[self.kind].__doc__
        )
        info.set_file_format(FILE_FORMAT)
        template = tfds.core.ShardedFileTemplate(
            data_dir=self.directory,
            template=FILENAME_TEMPLATE,
            dataset_name=self.kind,
            split=SPLIT,
            filetype_suffix=FILE_FORMAT,
        )
        lengths, size = [shard["count"] for shard in shards], sum(shard["bytes"] for shard in shards)
        split = tfds.core.SplitInfo(name=SPLIT, shard_lengths=lengths, num_bytes=size, filename_template=template)
        info.set_splits(tfds.core.splits.SplitDict([split]))
        with tempfile.TemporaryDirectory() as scratch:
            info.write_to_directory(scratch)
            for name in (FEATURES, DATASET_INFO):
                write_text(self.directory / name, (pathlib.Path(scratch) / name).read_text())

    def _note(self, number: int) -> Any:
        return self.directory / f".{shard_name(self.kind, number)}.json"


class ShardWriter:
    """One shard, written record by record under a temporary name; see `RecordShards.open`."""

    def __init__(self, path: Any, kind: str, note: Any):
        self.count = 0
        self._path, self._kind, self._note = path, kind, note
        self._scratch = tempfile.TemporaryDirectory() if is_remote(path) else None
        folder = pathlib.Path(self._scratch.name) if self._scratch else path.parent
        self._temporary = folder / f"{path.name}.tmp"
        # Groups of one record are read at random; images are compressed already.
        self._writer = ArrayRecordWriter(str(self._temporary), "group_size:1,uncompressed")
        self._stored_in: dict[str, int] = {}
        self._digest, self._bytes = hashlib.sha256(), 0

    def write(self, record: Any) -> None:
        """Adds a record; media that an earlier record of the shard holds are not stored again.

        Raises:
          RecordError: it is not valid (`reader.check_form`) or cannot be stored, and was not added.
        """
        try:
            with errors_named(check_form(self._kind, record)):
                data, media = encode_record(self._kind, record, self._stored_in)
        except RecordError as error:
            raise RecordError(f"{self._path.name}, record {self.count}: {error}") from error
        for entry in media:
            if entry.data and entry.record == THIS_RECORD:
                self._stored_in[entry.digest] = self.count
        with self._telling_of_the_disk():
            self._writer.write(data)
        self._digest.update(hashlib.sha256(data).digest())
        self._bytes += len(data)
        self.count += 1

    def close(self) -> None:
        """Moves the file to its final name, then writes the note that the shard is finished.

        Raises:
          StorageError: the disk has no room for it; nothing of the shard is left.
        """
        note = {"file": self._path.name, "count": self.count, "bytes": self._bytes, "digest": self._digest.hexdigest()}
        try:
            with self._telling_of_the_disk():
                self._writer.close()
                move(self._temporary, self._path)
                write_text(self._note, json.dumps(note))
        finally:
            self._temporary.unlink(missing_ok=True)
            self._cleanup()

    def abandon(self) -> None:
        """Removes the unfinished file."""
        try:
            with self._telling_of_the_disk():
                self._writer.close()
        finally:
            self._temporary.unlink(missing_ok=True)
            self._cleanup()

    @contextlib.contextmanager
    def _telling_of_the_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if (problem := storage_problem(error)) is None:
                raise
            raise StorageError(f"{self._path} cannot be written: {problem}") from error

    def _cleanup(self) -> None:
        if self._scratch:
            self._scratch.cleanup()


def read_description(directory: str | os.PathLike) -> dict[str, Any]:
    """The content of `metadata.json`: schema, kind, count, digest of the content, shards.

    Raises:
      RecordError: the data set is not complete, or of another schema version.
    """
    folder = as_path(directory)
    if not (folder / DATASET_INFO).exists():
        raise RecordError(f"{folder / DATASET_INFO} is missing: no data set was completed there")
    path = folder / DESCRIPTION
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
    """The file name of shard `number`, in the form that TFDS expects."""
    return f"{kind}-{SPLIT}-{number:05d}.{FILE_FORMAT}"
