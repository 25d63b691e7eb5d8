"""The files of an evaluation: what is written is read, and what a killed evaluation leaves is mended."""

import json
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixel_reasoner_jax.evaluation import line_file, records
from pixel_reasoner_jax.evaluation.records import (
    ScoredRecord,
    ScoredRecordWriter,
    read_records,
    read_results,
    write_results,
)


def record(id, **fields):
    return ScoredRecord("vstar", id, **{"score": 1.0, **fields})


def write(directory, *items):
    with ScoredRecordWriter(directory) as writer:
        for item in items:
            writer.write(item)


FULL = record(
    "q 1",
    sample=2,
    mode="text",
    scores={"letter": 1.0, "text": 0.25, "other": None},
    answer="B\n\x1b[31m\ud800",
    categories={"subset": "direct", "task": ["Perception", "OCR"]},
    cluster="image 1",
    operations=3,
    failed=1,
    ended="answer",
    tokens=512,
    seconds=1.5,
    problem="no such file",
    images=("840x560", "448x448x16"),
    order=(2, 0, 1),
    object_box=(0.25, 0.5, 0.375, 1.0),
    question="Wo?",
    reference=["B", "rot"],
    response="It is \\boxed{B}.",
)


def test_what_is_written_is_read(tmp_path):
    plain = record("q2", score=None, unreadable=True)
    write(tmp_path / "out", FULL, plain)
    assert list(read_records(tmp_path / "out")) == [FULL, plain]
    assert [r.key for r in read_records(tmp_path / "out")] == [
        ("vstar", "text", "q 1", 2),
        ("vstar", "pixel", "q2", -1),
    ]


def test_a_record_of_a_trajectory(make_trajectory):
    found = ScoredRecord.of(make_trajectory(sample=3), "vstar", 0.5, cluster="x")
    assert found == ScoredRecord(
        "vstar",
        "q1",
        sample=3,
        score=0.5,
        answer="red",
        cluster="x",
        operations=2,
        failed=1,
        ended="answer",
        tokens=5,
        question="What is it?",
        reference="red",
        response="It is \\boxed{red}.",
    )
    assert ScoredRecord.from_line(found.line()) == found


def test_long_texts_are_cut(tmp_path):
    write(tmp_path, record("a", response="x" * 100_000, reference=["y" * 100_000], answer="z" * 100_000))
    (found,) = read_records(tmp_path)
    assert {len(text) for text in (found.response, found.reference[0], found.answer)} == {records.MAX_TEXT}
    assert found.response.endswith("x…")


@settings(max_examples=25)
@given(st.builds(record, st.text(), answer=st.none() | st.text(), response=st.text(), cluster=st.none() | st.text()))
def test_any_text_is_one_line(found):
    assert "\n" not in found.line() and ScoredRecord.from_line(found.line()) == found


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_going_on_after_a_line_that_was_cut(tmp_path, cut):
    write(tmp_path, record("a"), record("b"))
    path = tmp_path / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:cut])
    assert [r.id for r in read_records(tmp_path)] == ["a"]
    write(tmp_path, record("b"), record("c"))
    assert [r.id for r in read_records(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("damage", [b"\0" * 40 + b"\n", b"{}\n", b"[1]\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_going_on_after_a_last_line_that_says_nothing(tmp_path, damage):
    write(tmp_path, record("a"))
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes() + damage)
    assert [r.id for r in read_records(tmp_path)] == ["a"]
    write(tmp_path, record("b"))
    assert [r.id for r in read_records(tmp_path)] == ["a", "b"]


def test_a_damaged_line_in_between_is_named(tmp_path):
    write(tmp_path, record("a"), record("b"), record("c"))
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text().replace('"id": "b"', '"id": 5'))
    with pytest.raises(ValueError, match=r"records.jsonl: line 2 is no scored record: its id is 5"):
        list(read_records(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": 1.5}, "its score is 1.5"),
        ({"score": float("nan")}, "its score is nan"),
        ({"score": True}, "its score is True"),
        ({"scores": {"a": 2}}, "its scores is"),
        ({"sample": -1}, "its sample is -1"),
        ({"operations": 10**400}, "its operations is 1000"),
        ({"operations": 1, "failed": 2}, "2 failed calls of 1"),
        ({"mode": "both"}, "its mode is 'both'"),
        ({"mode": ["pixel"]}, "its mode is"),
        ({"categories": {"task": []}}, "its categories is"),
        ({"seconds": float("inf")}, "its seconds is inf"),
        ({"object_box": [0.5, 0.5, 0.25, 1]}, "its object_box is"),
        ({"object_box": [0, 0, 10**400, 1]}, "its object_box is"),
        ({"object_box": "x"}, "its object_box is"),
        ({"benchmark": ""}, "its benchmark is ''"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)
def test_what_is_no_record(fields, message):
    line = json.dumps({"benchmark": "vstar", "id": "a", **fields})
    with pytest.raises(ValueError, match=message):
        ScoredRecord.from_line(line)
    with pytest.raises(ValueError, match="it has no id"):
        ScoredRecord.from_line('{"benchmark": "vstar"}')


def test_a_killed_evaluation_leaves_whole_lines(tmp_path):
    """Every record whose `write` returned is there, although nothing was closed."""
    program = (
        "import os, signal, sys\n"
        "from pixel_reasoner_jax.evaluation.records import ScoredRecord, ScoredRecordWriter\n"
        "writer = ScoredRecordWriter(sys.argv[1])\n"
        "for i in range(50): writer.write(ScoredRecord('vstar', str(i), response='x' * 3000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    assert [r.id for r in read_records(tmp_path)] == [str(i) for i in range(50)]


def test_in_an_object_store(bucket, monkeypatch):
    monkeypatch.setattr(line_file, "UPLOAD_SECONDS", 0.0)
    directory = f"{bucket}/out"
    with ScoredRecordWriter(directory) as writer:
        writer.write(record("a"))
        assert [r.id for r in read_records(directory)] == ["a"]
    write(directory, record("b"))
    write_results(directory, {"benchmarks": {"vstar": {"score": 1.0}}})
    assert [r.id for r in read_records(directory)] == ["a", "b"]
    assert read_results(directory)["benchmarks"]["vstar"]["score"] == 1.0


def test_results(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no results.json: is it what"):
        read_results(tmp_path)
    write(tmp_path, record("a"))
    with pytest.raises(ValueError, match="it is not finished"):
        read_results(tmp_path)
    write_results(tmp_path, {"benchmarks": {"vstar": {"score": 1.0}}})
    assert read_results(tmp_path) == {"benchmarks": {"vstar": {"score": 1.0}}}
    for text in ("{", "[]", '{"benchmarks": []}', '{"benchmarks": {"vstar": 1}}', "[" * 100_000):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match="results.json"):
            read_results(tmp_path)


def test_no_records(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no records.jsonl: is it what"):
        list(read_records(tmp_path))
