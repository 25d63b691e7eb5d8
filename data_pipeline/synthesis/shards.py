"""What a synthesis has written so far: whole shards by number, and what is to be known about each.

The seam between synthesis and storage: a shard is there whole or not at all, a shard that is there is never made
again, and the data set appears when all are.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import msgpack

from data_pipeline.records import METADATA, RecordWriter, decode_trajectory
from pixel_reasoner_jax.files import as_path, is_remote, move, write_text

WORK = ".synthesis"
"""Folder, in the data set's own, of what is not finished."""


class Shards:
    """The shards of a data set that is being made; they are kept in `WORK` until it is complete.

    Args:
      directory: of the data set; made where it is missing.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = as_path(directory)
        self._work = self.directory / WORK

    def notes(self, number: int) -> dict[str, Any] | None:
        """What was noted with a shard; None while it is not there."""
        path = self._path(number)
        return msgpack.unpackb(path.read_bytes())["notes"] if path.exists() else None

    def write(self, number: int, records: Sequence[bytes], notes: dict[str, Any]) -> None:
        """Writes a shard of encoded trajectories and what is to be noted with it."""
        self._work.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=None if is_remote(self._work) else self._work, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(msgpack.packb({"records": list(records), "notes": notes}))
            file.flush()
            os.fsync(file.fileno())
        move(pathlib.Path(temporary), self._path(number))

    def finish(self, count: int) -> None:
        """Makes the data set of the first `count` shards, in their order, unless it is there already."""
        if (self.directory / METADATA).exists():
            return
        with RecordWriter(self.directory, "trajectory") as writer:
            for number in range(count):
                for record in msgpack.unpackb(self._path(number).read_bytes())["records"]:
                    writer.write(decode_trajectory(record))

    def remember(self, name: str, value: dict[str, Any]) -> None:
        """Keeps a JSON object until the data set is complete."""
        write_text(self._work / name, json.dumps(value, indent=1) + "\n")

    def recall(self, name: str) -> dict[str, Any] | None:
        path = self._work / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def clear(self) -> None:
        """Removes what only an unfinished synthesis needs, and what a kill left of files that were being written."""
        if is_remote(self._work):
            if self._work.exists():
                self._work.rmtree()
            return
        shutil.rmtree(self._work, ignore_errors=True)
        for path in self.directory.glob(".*.*"):
            if (self.directory / path.stem[1:]).is_file():
                path.unlink()

    def _path(self, number: int) -> Any:
        return self._work / f"shard-{number:05d}.msgpack"
