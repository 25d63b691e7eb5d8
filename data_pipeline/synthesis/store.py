"""The folder of a synthesis: finished shards of trajectories, and notes about every finished batch of seeds.

A shard is written atomically, and then the notes of its batch: a batch with notes is never made again. When all batches
are finished, the shards become a data set and the notes are removed. A finished data set is extended in the same way:
its shards stay as they are, others follow.
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
"""The folder, within that of the data set, for notes and settings of an unfinished synthesis."""


class SynthesisStore:
    """Shards and notes of a synthesis; see the module.

    Args:
      directory: of the data set; created if missing.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = as_path(directory)
        self._work = self.directory / WORK_FOLDER

    @property
    def is_complete(self) -> bool:
        """Whether the data set is complete."""
        return (self.directory / DATASET_INFO).exists()

    def notes(self, number: int) -> dict[str, Any] | None:
        """The notes of batch `number`, None if it is not finished."""
        return self.load_json(f"notes-{number:05d}.json")

    def write(self, number: int, shard: int, drafts: Sequence[Draft], notes: dict[str, Any]) -> None:
        """Writes the results of a batch.

        Args:
          number: of the batch.
          shard: the number of the shard for its trajectories; a batch without trajectories has no shard.
          drafts: the trajectories, their media as files.
          notes: plain values, written last.
        """
        if drafts:
            RecordShards(self.directory, "trajectory", extend=True).write(shard, drafts)
        self.save_json(f"notes-{number:05d}.json", notes)

    def finish(self, count: int) -> None:
        """Completes the data set of the first `count` shards, or extends it to them."""
        RecordShards(self.directory, "trajectory", extend=True).finish(count)

    def save_json(self, name: str, value: dict[str, Any]) -> None:
        """Saves a JSON object until the synthesis is finished."""
        write_text(self._work / name, json.dumps(value) + "\n")

    def load_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object saved under a name, None if there is none."""
        path = self._work / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def clear(self) -> None:
        """Removes what only an unfinished synthesis needs, and temporary files that a killed run left."""
        if is_remote(self._work):
            if self._work.exists():
                self._work.rmtree()
            return
        shutil.rmtree(self._work, ignore_errors=True)
        for path in self.directory.glob(".*.*"):
            if (self.directory / path.stem[1:]).is_file():
                path.unlink()
