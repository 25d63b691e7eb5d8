"""What a synthesis has written so far: shards of trajectories, and notes of how each came about.

The seam between synthesis and storage: a shard is there whole or not at all, one whose notes are there is never made
again, and the data set appears when all are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.records import DATASET_INFO, RecordShards
from pixel_reasoner_jax.files import as_path, is_remote, write_text

WORK_FOLDER = ".synthesis"
"""Folder, in the data set's own, of what is not finished."""


class SynthesisStore:
    """The shards of a data set that is being made; the notes are kept in `WORK` until it is complete.

    Args:
      directory: of the data set; made where it is missing.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = as_path(directory)
        self._work = self.directory / WORK_FOLDER

    @property
    def complete(self) -> bool:
        """Whether the data set is there."""
        return (self.directory / DATASET_INFO).exists()

    def notes(self, number: int) -> dict[str, Any] | None:
        """What was noted of a piece of the work; None while it is not done."""
        return self.load_json(f"notes-{number:05d}.json")

    def write(self, number: int, shard: int, drafts: Sequence[Draft], notes: dict[str, Any]) -> None:
        """Writes what came of a piece of the work.

        Args:
          number: of the piece.
          shard: the number of the shard for its trajectories; a piece without any has none.
          drafts: the trajectories, their media as files.
          notes: plain values, written last.
        """
        if drafts:
            RecordShards(self.directory, "trajectory").write(shard, drafts)
        self.save_json(f"notes-{number:05d}.json", notes)

    def finish(self, count: int) -> None:
        """Makes the data set of the first `count` shards, in their order, unless it is there already."""
        if not self.complete:
            RecordShards(self.directory, "trajectory").finish(count)

    def save_json(self, name: str, value: dict[str, Any]) -> None:
        """Keeps a JSON object until the data set is complete."""
        write_text(self._work / name, json.dumps(value) + "\n")

    def load_json(self, name: str) -> dict[str, Any] | None:
        """What was remembered under a name, if anything was."""
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
