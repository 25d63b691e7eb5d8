"""One's own questions, from a stored data set."""

from __future__ import annotations

import json

import pytest

from data_pipeline.records import RecordShards
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks import Item, UnreadableItem, open_benchmark
from pixel_reasoner_jax.evaluation.benchmarks.options import read_options
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError
from pixel_reasoner_jax.evaluation.scorers import SCORERS
from pixel_reasoner_jax.rollout.choices import with_choices
from tests.evaluation.forms import image_bytes


def query(name: str, **changes):
    return {"id": name, "question": "What is it?", "answer": "red", "images": [image_bytes(1)]} | changes


def opened(tmp_path, *queries):
    shards = RecordShards(tmp_path / "data", "query")  # written in parts, a data set may have an id twice
    shards.write(0, queries)
    shards.finish(1)
    return open_benchmark("data", tmp_path / "data")


def test_queries_are_items(tmp_path):
    benchmark = opened(
        tmp_path,
        query("a", category="colour", difficulty=3, boxes=[{"xyxy": [8, 6, 16, 12]}]),
        query("b", answer=["red", "scarlet"]),
        query("c", options=["(A) green", "(B) red"], category={"kind": "colour", "odd": ["x"]}),
        query("c", options=["green", "red"], answer="B"),
        query("d", options=["green", "red"], answer="blue"),
        query("e", options=["green", "red"], answer="C"),
        query("f", images=[b"no image"]),
        query("g", images=[], video=[image_bytes(n) for n in range(3)], fps=4.0),
        {"id": "h", "question": "What?"},
    )
    items = list(benchmark)
    assert [item.id for item in items] == ["a", "b", "c#2", "c#3", "d", "e", "f", "g", "h"]
    assert [item.id for item in items if isinstance(item, UnreadableItem)] == ["d", "e", "f"]
    assert items[0].categories == {"category": "colour", "difficulty": "3"} and items[0].cluster == items[1].cluster
    assert items[0].object_box == (0.25, 0.25, 0.5, 0.5) and items[1].object_box is None
    assert items[1].answers == ("red", "scarlet") and items[2].categories == {"kind": "colour"}
    assert [items[n].options for n in (2, 3)] == [("green", "red")] * 2 and [items[n].letter for n in (2, 3)] == [
        "B",
        "B",
    ]
    assert len(items[7].video) == 3 and items[7].fps == 4.0 and not items[8].answered
    assert set(items[7].query(benchmark.prompts["plain"])) == {"id", "question", "video", "fps"}
    scores = [
        SCORERS[benchmark.scorer](reply, item) for reply, item in zip(("red", "scarlet", "B"), items[:3], strict=True)
    ]
    assert scores == [1.0, 1.0, 1.0] and benchmark.notes == ()


@pytest.mark.parametrize(
    "options", [["red", "blue"], ["A. red", "(B) blue."], {"A": "red", "B": "blue"}, {"1": "red", "B": "blue"}]
)
@pytest.mark.parametrize("answer", ["B", "b", "(B)", "blue", "B. blue", "blue."])
def test_options_are_read_as_in_training(tmp_path, options, answer):
    [item] = opened(tmp_path, query("a", options=options, answer=answer))
    assert item.reference == with_choices("?", answer, options)[1] == "B. blue" and item.options == ("red", "blue")


@pytest.mark.parametrize("options", [["red"], "red", 5, [["red"], ["blue"]], [str(n) for n in range(27)]])
def test_what_are_no_options(options):
    with pytest.raises(RowError, match="options are|it has"):
        read_options(options, "red")


def test_options_with_the_right_one_always_first_are_shuffled(tmp_path):
    queries = [query(f"q{n}", options=["red", "green", "blue"], answer="red") for n in range(12)]
    benchmark = opened(tmp_path, *queries)
    items = [item for item in benchmark if isinstance(item, Item)]
    assert "the first one in every row" in benchmark.notes[0]
    assert len({item.letter for item in items}) == 3
    assert all(item.options[item.right] == "red" for item in items)


def test_a_table_is_asked_as_it_is(tmp_path):
    (tmp_path / "1.png").write_bytes(image_bytes(1))
    rows = [{"question": "What?", "answer": "B", "options": ["green", "red"], "image": "1.png", "split": "test"}]
    rows += [{"id": "bad", "question": "What?", "answer": "red", "image": "gone.png"}]
    (tmp_path / "2.png").write_text("no image")
    rows += [{"question": "What?", "answer": "red", "image": "2.png"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = open_benchmark("data", tmp_path / "t.jsonl")
    assert (first.letter, first.categories, len(first.images)) == ("B", {"split": "test"}, 1)
    assert isinstance(second, UnreadableItem) and second.problem.startswith(f"{tmp_path}/t.jsonl, line 2: id 'bad'")
    assert second.problem.count("t.jsonl") == 1 and third.problem.startswith(f"{tmp_path}/t.jsonl, line 3: ")


def test_a_folder_without_a_data_set(tmp_path):
    with pytest.raises(UserError):
        open_benchmark("data", tmp_path)
