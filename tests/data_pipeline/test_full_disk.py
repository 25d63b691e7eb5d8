"""A disk that takes no more ends an import in one line, and nothing half-written is taken for a data set."""

import errno
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_pipeline.exchange.importing import import_tables
from data_pipeline.records import shards, write_records
from data_pipeline.records.shards import ShardWriter
from pixel_reasoner_jax.files import StorageError


def test_it_ends_an_import_and_is_no_fault_of_a_row(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "scene.png")
    rows = [{"question": "?", "answer": "1", "image": "scene.png", "qid": str(number)} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write = ShardWriter.write

    def fill(self, record):
        if self.count == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, record)

    monkeypatch.setattr(ShardWriter, "write", fill)
    with pytest.raises(OSError, match="No space left"):
        import_tables([tmp_path / "rows.jsonl"], tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "where, error", [("write", FULL), ("close", FULL), ("close", RuntimeError("x: No space left on device [28]"))]
)
def test_the_shard_that_does_not_fit_is_named(tmp_path, monkeypatch, where, error):
    class Full:
        def __init__(self, path, options):
            pathlib.Path(path).write_bytes(b"half")

        def fail(self, now):
            if now == where:
                raise error

        def write(self, data):
            self.fail("write")

        def close(self):
            self.fail("close")

    monkeypatch.setattr(shards, "ArrayRecordWriter", Full)
    with pytest.raises(
        StorageError, match=r"query-train-00000.array_record cannot be written: No space left on device$"
    ):
        write_records(tmp_path / "data", "query", [{"id": "a", "question": "?"}])
    assert not list((tmp_path / "data").iterdir())
