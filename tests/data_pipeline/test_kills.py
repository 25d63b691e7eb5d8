"""A reader that is killed, again and again, sees what one that is left alone does."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from data_pipeline.pipeline import RecordOrder, query_batches
from data_pipeline.records import write_records

STEPS, SHARDS = 60, 4

READER = f"""
import json, os, pathlib, sys, time
from data_pipeline.pipeline import RecordOrder, query_batches
from data_pipeline.batch_loader import LoaderSettings
from pixel_reasoner_jax.files import write_text

data, folder, workers = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
saved = folder / "state.json"
start = json.loads(saved.read_text()) if saved.exists() else {{"step": 0}}
if __name__ == "__main__":
    own = [shard for shard in range({SHARDS}) if shard in map(int, sys.argv[4].split(","))]
    settings = LoaderSettings(workers=workers)
    with query_batches(data, 2, order=RecordOrder(5, own, {SHARDS}), settings=settings) as batches:
        if start["step"]:
            batches.set_state(start["places"])
        for step in range(start["step"], {STEPS}):
            batch = next(batches)
            with open(folder / "log.jsonl", "a") as log:
                log.write(json.dumps([step, {{s: [q["id"] for q in items] for s, items in batch.items()}}]) + "\\n")
            time.sleep(0.02)
            if step % 3 == 2:
                write_text(saved, json.dumps({{"step": step + 1, "places": batches.get_state()}}))
"""


@pytest.fixture
def data(tmp_path):
    write_records(
        tmp_path / "data", "query", ({"id": str(i), "question": "?", "answer": "1"} for i in range(41)), shard_size=9
    )
    return tmp_path / "data"


def read(script, data, folder, shards: str, workers: int, kill_after: int | None) -> None:
    """Runs a reader; kills it when so many more steps are logged, at some moment of the next."""
    folder.mkdir(exist_ok=True)
    log = folder / "log.jsonl"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    command = [sys.executable, str(script), str(data), str(folder), str(workers), shards]
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    if kill_after is None:
        assert process.wait(300) == 0
        return
    deadline = time.monotonic() + 300
    while not log.exists() or len(log.read_text().splitlines()) < before + kill_after:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.Random(kill_after).random() * 0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):  # its workers end with it
        for _ in range(600):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def check(log, seen: dict) -> None:
    """Every step of a log is what the uninterrupted run saw, also where it was done twice."""
    steps = set()
    for line in log.read_text().splitlines():
        if line.endswith("]"):  # not cut off by the kill
            step, batch = json.loads(line)
            assert batch == {shard: seen[step][shard] for shard in batch}
            steps.add(step)
    assert steps == set(range(STEPS))


@pytest.mark.parametrize("workers", [(1, 0), pytest.param((2, 1, 0), marks=pytest.mark.slow)])
def test_a_killed_reader_goes_on_where_it_was(workers, data, tmp_path):
    whole = query_batches(data, 2, order=RecordOrder(5, range(SHARDS), SHARDS))
    seen = [{str(shard): [q["id"] for q in items] for shard, items in next(whole).items()} for _ in range(STEPS)]
    dealt = [items[turn] for items_of in seen for turn in range(2) for items in items_of.values()]
    for start in range(0, len(dealt) - 40, 41):  # 41 records do not divide evenly, and all come in every epoch
        assert len(set(dealt[start : start + 41])) == 41
    (tmp_path / "reader.py").write_text(READER)
    for number, kill_after in zip(workers, (7, 20, None)[-len(workers) :], strict=True):
        read(tmp_path / "reader.py", data, tmp_path / "run", "0,1,2,3", number, kill_after)
    check(tmp_path / "run" / "log.jsonl", seen)


@pytest.mark.slow
def test_a_killed_reader_goes_on_as_several(data, tmp_path):
    """One process reads four shards; after the kill two processes read two each."""
    (tmp_path / "reader.py").write_text(READER)
    whole = query_batches(data, 2, order=RecordOrder(5, range(SHARDS), SHARDS))
    seen = [{str(shard): [q["id"] for q in items] for shard, items in next(whole).items()} for _ in range(STEPS)]
    read(tmp_path / "reader.py", data, tmp_path / "one", "0,1,2,3", 0, 10)
    for shards in ("0,2", "1,3"):
        folder = tmp_path / shards
        folder.mkdir()
        for name in ("state.json", "log.jsonl"):
            (folder / name).write_text((tmp_path / "one" / name).read_text())
        read(tmp_path / "reader.py", data, folder, shards, 0, None)
        check(folder / "log.jsonl", seen)
