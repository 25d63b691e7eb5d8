"""What is written are TFDS data sets, by several writers, and a killed one goes on."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipeline import lessons
from data_pipeline.records import SCHEMA, RecordError, RecordShards, RecordSource, read_description, write_records
from data_pipeline.sources.pixel_search import PixelSearch


def image(seed: int, size=(40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


def query(number: int, *images) -> dict:
    return {"id": f"q{number}", "question": f"what is {number}?", "answer": str(number), "images": list(images)}


def test_plain_tfds_reads_trajectories(registry, processor, tmp_path):
    drafts = list(map(lessons.warm_start(registry, processor), PixelSearch(6, "sft")))
    write_records(tmp_path, "trajectory", drafts, shard_size=4)
    builder = tfds.builder_from_directory(tmp_path)
    assert (builder.name, str(builder.version)) == ("trajectory", f"{SCHEMA}.0.0")
    assert builder.info.splits["train"].shard_lengths == [4, 2] and builder.info.splits["train"].num_examples == 6
    for draft, row in zip(drafts, builder.as_data_source("train"), strict=True):
        assert (row["query_id"].decode(), row["type"].decode()) == (draft.query_id, draft.kind)
        assert [answer.decode() for answer in row["answers"]] == [draft.reference]
        messages = json.loads(row["messages"])
        assert [m["role"] for m in messages] == [m["role"] for m in draft.messages]
        number = next(item["image"] for item in messages[1]["content"] if item["type"] == "image")
        assert row["media"]["data"][number].startswith(b"\x89PNG")
        assert 1 + bool(draft.operations) <= len(row["media"]["data"]) <= 1 + len(draft.operations)
        assert len(set(row["media"]["digest"])) == len(row["media"]["data"])  # crops that look alike are one


def test_plain_tfds_reads_queries(tmp_path):
    film = {"id": "film", "question": "?", "answer": ["a", "b"], "video": ["1.jpg", "2.jpg"], "fps": 2.0}
    write_records(tmp_path, "query", [query(0, image(0)), film])
    first, second = tfds.builder_from_directory(tmp_path).as_data_source("train")
    assert first["images"] == [0] and first["video"] == [] and first["media"]["kind"] == [b"image"]
    assert second["answers"] == [b"a", b"b"] and second["media"]["path"] == [b"1.jpg", b"2.jpg"]
    assert json.loads(second["attributes"]) == {"fps": 2.0}


def test_an_image_of_several_records_is_stored_once_in_a_shard(tmp_path):
    shared, own = image(1, (300, 200)), [image(number) for number in range(2, 6)]
    queries = [query(number, shared, own[number]) for number in range(4)]
    write_records(tmp_path, "query", queries, shard_size=2)
    rows = tfds.builder_from_directory(tmp_path).as_data_source("train")
    sizes = [[len(data) for data in row["media"]["data"]] for row in rows]
    assert [size[0] > 0 for size in sizes] == [True, False, True, False] and all(size[1] > 0 for size in sizes)
    source = RecordSource(tmp_path)
    assert source.kind == "query"
    for number in (3, 1, 0, 2):  # in any order
        stored = source[number]
        assert stored["images"][0] == source[0]["images"][0] and stored["id"] == f"q{number}"


def test_several_processes_write_one_data_set(tmp_path):
    write_records(tmp_path / "one", "query", [query(number, image(number)) for number in range(7)], shard_size=3)
    shards = [RecordShards(tmp_path / "many", "query") for _ in range(3)]
    for number in (2, 0):
        shards[number].write(number, [query(n, image(n)) for n in range(3 * number, min(3 * number + 3, 7))])
    assert [shards[0].is_finished(number) for number in range(3)] == [True, False, True]
    with pytest.raises(RecordError, match="shard 1 of 3 .* was not written"):
        shards[0].finish(3)
    with pytest.raises(RecordError, match="no data set was completed"):
        RecordSource(tmp_path / "many")
    shards[1].write(1, [query(n, image(n)) for n in range(3, 6)])
    shards[2].finish(3)
    assert read_description(tmp_path / "many") == read_description(tmp_path / "one")
    assert {file.name for file in (tmp_path / "many").iterdir()} == {file.name for file in (tmp_path / "one").iterdir()}


def test_a_shard_is_written_whole_or_not_at_all(tmp_path):
    shards = RecordShards(tmp_path, "query")

    def broken():
        yield query(0, image(0))
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        shards.write(0, broken())
    assert not shards.is_finished(0) and not list(tmp_path.iterdir())


def test_a_shard_may_be_empty(tmp_path):
    shards = RecordShards(tmp_path / "some", "query")
    for number, count in enumerate((2, 0, 1)):
        shards.write(number, [query(10 * number + n) for n in range(count)])
    shards.finish(3)
    assert [record["id"] for record in RecordSource(tmp_path / "some")] == ["q0", "q1", "q20"]
    write_records(tmp_path / "none", "query", [])
    assert list(RecordSource(tmp_path / "none")) == []


@pytest.mark.parametrize("broken", [{"id": 1}, {"question": None}, {"answer": 3}, {"video": 3.5}])
def test_what_cannot_be_stored_is_named(broken, tmp_path):
    with pytest.raises(ValueError, match="record 0: .*(stored|answer|question)"):
        write_records(tmp_path, "query", [query(0) | broken])


WRITER = """
import os, signal, sys
from data_pipeline.records import RecordShards
shards = RecordShards(sys.argv[1], "query")
def records(number):
    for n in range(4):
        if (number, n) == (2, 3) and sys.argv[2] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"id": f"{number}.{n}", "question": "?", "answer": "1"}
for number in range(4):
    if not shards.is_finished(number):
        print(number, flush=True)
        shards.write(number, records(number))
shards.finish(4)
assert "tensorflow" not in sys.modules
"""


def test_a_killed_writer_goes_on_without_duplicates_or_gaps(tmp_path):
    def write(how):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "killed"), how]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})

    assert write("killed").returncode == -signal.SIGKILL
    again = write("whole")
    assert (again.returncode, again.stdout.split()) == (0, ["2", "3"]), again.stderr
    ids = [f"{k}.{n}" for k in range(4) for n in range(4)]
    assert [record["id"] for record in RecordSource(tmp_path / "killed")] == ids
    write_records(tmp_path / "whole", "query", ({"id": name, "question": "?", "answer": "1"} for name in ids), 4)
    for file in (tmp_path / "whole").iterdir():  # byte for byte, and nothing else
        assert (tmp_path / "killed" / file.name).read_bytes() == file.read_bytes()
    assert len(list((tmp_path / "killed").iterdir())) == 4 + 3
