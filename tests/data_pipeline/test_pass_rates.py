"""Pass rates in copies of data sets and tables."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from data_pipeline.exchange.pass_rates import PassRateCopy, write_pass_rates
from data_pipeline.exchange.table_source import open_records
from data_pipeline.pipeline import record_count
from data_pipeline.records import RecordSource, write_records
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.query import PASS_RATE

RATES = {0: 0.25, 2: 1.0}


def queries(folder, count=4):
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    return [
        {"id": f"q{i}", "question": "?", "answer": ["1", "one"], "image": "a.png", "level": i} for i in range(count)
    ]


def rates(path):
    return [query.get(PASS_RATE) for query in open_records(path, "query")]


def test_a_data_set(tmp_path):
    stored = [{**query, "images": [(tmp_path / "a.png").read_bytes()]} for query in queries(tmp_path)]
    for query in stored:
        del query["image"]
    write_records(tmp_path / "set", "query", stored)
    before = {file.name: file.read_bytes() for file in (tmp_path / "set").iterdir()}
    assert write_pass_rates(tmp_path / "set", tmp_path / "rated", RATES) == PassRateCopy(4, 2, 0)
    assert {file.name: file.read_bytes() for file in (tmp_path / "set").iterdir()} == before
    assert rates(tmp_path / "rated") == [0.25, None, 1.0, None]
    assert [{**q, PASS_RATE: 0} for q in RecordSource(tmp_path / "rated")] == [{**q, PASS_RATE: 0} for q in stored]
    assert record_count(tmp_path / "rated", (0.0, 0.5)) == 3  # those without a rate stay
    assert write_pass_rates(tmp_path / "set", tmp_path / "rated", RATES) == PassRateCopy(4, 2, 0)
    with pytest.raises(UserError, match="pass rates of another evaluation"):
        write_pass_rates(tmp_path / "set", tmp_path / "rated", {0: 1.0})
    assert write_pass_rates(tmp_path / "rated", tmp_path / "again", {1: 0.5}).rated == 1
    assert rates(tmp_path / "again") == [0.25, 0.5, 1.0, None]


def test_tables(tmp_path):
    rows = queries(tmp_path)
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join([*lines[:3], "{", lines[3]]))
    assert write_pass_rates(tmp_path / "t.jsonl", tmp_path / "rated.jsonl", {**RATES, 4: 0.5}) == PassRateCopy(4, 3, 1)
    assert rates(tmp_path / "rated.jsonl") == [0.25, None, 1.0, 0.5]
    written = [json.loads(line) for line in (tmp_path / "rated.jsonl").read_text().splitlines()]
    assert [{**row, PASS_RATE: 0} for row in written] == [{**row, PASS_RATE: 0} for row in rows]
    (tmp_path / "t.csv").write_text("id,question,answer,image\na,Why?,x,a.png\nb,Who?,[x],a.png\n")
    write_pass_rates(tmp_path / "t.csv", tmp_path / "csv.jsonl", {1: 0.0})
    assert rates(tmp_path / "csv.jsonl") == [None, 0.0]
    rows = [{**row, "image": {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    for _ in range(2):  # the same again changes nothing
        assert write_pass_rates(tmp_path / "t.parquet", tmp_path / "r.parquet", RATES) == PassRateCopy(4, 2, 0)
    assert rates(tmp_path / "r.parquet") == [0.25, None, 1.0, None]
    assert write_pass_rates(tmp_path / "r.parquet", tmp_path / "s.parquet", {1: 0.5}).rated == 1
    assert rates(tmp_path / "s.parquet") == [0.25, 0.5, 1.0, None]
    assert {file.name for file in tmp_path.iterdir()} == {
        *("a.png", "t.jsonl", "t.csv", "t.parquet", "rated.jsonl", "csv.jsonl", "r.parquet", "s.parquet")
    }


def test_places_that_are_none(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps(queries(tmp_path)[0]))
    (tmp_path / "other.jsonl").write_text("mine")
    write_records(tmp_path / "set", "query", [{"id": "a", "question": "?", "answer": "1"}])
    write_records(tmp_path / "mine", "query", [{"id": "a", "question": "?", "answer": "1"}])
    for path, out, message in [
        ("t.jsonl", "t.jsonl", "is what was evaluated, which is not rewritten"),
        ("t.jsonl", "set/../t.jsonl", "is what was evaluated, which is not rewritten"),
        ("t.jsonl", "r.parquet", "name a .jsonl file"),
        ("t.jsonl", "set/r.jsonl", "must be in the folder of"),
        ("t.jsonl", "other.jsonl", "is there already and holds something else"),
        ("set", "r.jsonl", "name a folder"),
        ("set", "mine", "holds a data set already"),
    ]:
        with pytest.raises(UserError, match=message):
            write_pass_rates(tmp_path / path, tmp_path / out, {0: 1.0})
    assert (tmp_path / "other.jsonl").read_text() == "mine"
    assert not list(tmp_path.glob("*unfinished*"))
