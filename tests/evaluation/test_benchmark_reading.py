"""How rows are read: lazily, in the folder only, by unique ids; options in texts; clips; prompts without answers."""

from __future__ import annotations

import itertools
import math
import pathlib
import re

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks import BENCHMARKS, Item, Prompt, UnreadableItem, find_benchmark
from pixel_reasoner_jax.evaluation.benchmarks.base import _unique
from pixel_reasoner_jax.evaluation.benchmarks.clips import Clip
from pixel_reasoner_jax.evaluation.benchmarks.options import split_text, without_label
from pixel_reasoner_jax.evaluation.benchmarks.rows import ChainedRows, JsonFileRows, ParquetRows, RowError, TsvRows
from pixel_reasoner_jax.evaluation.benchmarks.vstar import VStar
from pixel_reasoner_jax.evaluation.scorers import SCORERS
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.processing import MediaError
from tests.evaluation.forms import image_bytes, write_image, write_json, write_lines, write_parquet, write_tsv

FILES = [name for name in BENCHMARKS if name not in ("pixel_search", "data")]


@pytest.mark.parametrize("name", FILES)
def test_a_benchmark_says_what_it_looks_for(name, tmp_path):
    found = find_benchmark(name)
    assert found.name == name and found.scorer in found.scorers and set(found.scorers) <= set(SCORERS)
    assert all(hasattr(found, form.read) for form in found.forms)
    with pytest.raises(UserError, match="no such file or folder"):
        found(tmp_path / "nowhere")
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(UserError, match="unpack them first") as error:
        found(tmp_path)
    for form in found.forms:
        for pattern in form.files:
            assert (pattern if isinstance(pattern, str) else pattern[0]) in str(error.value)
    write_json(tmp_path / "test.json", [{"some": "thing"}])
    with pytest.raises(UserError, match=re.escape(f"is not {found.title}")):
        found(tmp_path)


def test_every_benchmark_and_scorer_is_documented():
    text = (pathlib.Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    assert [name for name in (*BENCHMARKS, *SCORERS) if f"`{name}`" not in text] == []


def test_unknown_benchmarks_are_named():
    with pytest.raises(UserError, match="known: vstar, tallyqa"):
        find_benchmark("vstarr")
    with pytest.raises(UserError, match="cannot be imported"):
        find_benchmark("no_such_module:Class")
    with pytest.raises(UserError, match="is no class of a benchmark"):
        find_benchmark("json:loads")
    assert find_benchmark("pixel_reasoner_jax.evaluation.benchmarks.vstar:VStar") is VStar
    with pytest.raises(UserError, match="unknown order"):
        VStar("/", order="random")


def test_parquet_rows_are_read_one_at_a_time(tmp_path):
    rows = [{"index": n, "image": {"bytes": image_bytes(n), "path": None}, "name": f"n{n}"} for n in range(25)]
    read = ParquetRows(write_parquet(tmp_path / "a.parquet", rows, group=4))
    assert len(read) == 25 and read.columns == {"index", "image", "name"}
    assert read.light(("name", "nothing"))[3] == ("n3", None)
    for index in (0, 1, 2, 9, 10, 24, 3, 2, 2, 23, 0):  # forwards, over groups, back, again
        assert read[index]["index"] == index and read[index]["image"]["bytes"] == image_bytes(index)
    with pytest.raises(IndexError):
        read[25]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(UserError, match="is not a parquet file"):
        ParquetRows(tmp_path / "b.parquet")


def test_ids_that_repeat_are_told_apart_from_all_others():
    names = ["a", "a", "a#1", "a#1#", "b", "", None]
    assert (ids := _unique([(name,) for name in names])) == ["a#0", "a#1##", "a#1", "a#1#", "b", "#5", "#6"]
    assert len(set(ids)) == len(ids)


def test_the_files_that_rows_are_in(tmp_path):
    parts = [ParquetRows(write_parquet(tmp_path / f"{n}.parquet", [{"index": n}])) for n in range(2)]
    assert parts[0].files == [parts[0].path] and ChainedRows(parts).files == [part.path for part in parts]
    files = [write_json(tmp_path / f"{n}.json", {"index": n}) for n in range(3)]
    assert JsonFileRows(tmp_path, files).files == files


def test_a_damaged_parquet_page_is_an_error_of_its_rows(tmp_path):
    rows = [{"text": f"{'x' * 3000}{n}"} for n in range(40)]
    path = write_parquet(tmp_path / "a.parquet", rows, group=10)
    data = bytearray(path.read_bytes())
    data[10:60] = bytes(50)  # the header of the first group's first page
    path.write_bytes(data)
    read = ParquetRows(path)
    with pytest.raises(RowError, match="cannot be read"):
        read[3]
    assert read[39]["text"].endswith("39")
    with pytest.raises(RowError):
        read[0]
    assert read.light(("text",)) == [(None,)] * 40


def test_tsv_rows_as_pandas_writes_them(tmp_path):
    rows = [
        {"index": 0, "question": 'say "hi"\tto\nall', "A": "x"},
        {"index": 1, "question": "plain", "A": None},
        {"index": 2, "question": "nan", "A": "é"},
    ]
    path = write_tsv(tmp_path / "a.tsv", rows)
    path.write_bytes(
        b"\xef\xbb\xbf" + path.read_bytes().replace(b"plain\t\n", b"plain\t\r\n") + b"3\ttoo\tmany\tfields\n"
    )
    read = TsvRows(path, keep=("index",))
    assert len(read) == 4 and read.light(("index", "A"))[2] == ("2", None)
    assert read[2] == {"index": "2", "A": "é"} and read[1] == {"index": "1", "question": "plain"}
    assert read[0]["question"] == 'say "hi"\tto\nall'
    with pytest.raises(RowError, match="4 fields, the header 3"):
        read[3]
    (tmp_path / "empty.tsv").write_bytes(b"")
    assert len(TsvRows(tmp_path / "empty.tsv")) == 0


def test_media_outside_the_folder_are_not_read(tmp_path):
    write_image(tmp_path / "secret.jpg")
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    paths = ("link.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), f"file://{tmp_path}/secret.jpg", "a\0b",
     "x" * 5000, ".",
             "http://example.com/a.jpg", "")  # fmt: skip
    text = "?\n(A) x\n(B) y"
    write_lines(folder / "test_questions.jsonl", [{"text": text, "label": "A", "image": path} for path in paths])
    benchmark = VStar(folder)
    assert all(isinstance(item, UnreadableItem) and len(item.problem) <= 300 for item in benchmark)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "test_questions.jsonl").unlink()
    (folder / "test_questions.jsonl").symlink_to(write_lines(tmp_path / "outside.jsonl", [{"text": text}]))
    with pytest.raises(UserError, match="leads out"):
        VStar(folder)


def test_rows_of_any_content_are_items_or_unreadable(tmp_path):
    odd = (None, 5, -1.5, True, [], {}, "", "x" * 100_000, [1], ["a"], {"bytes": "x"}, "[" * 50_000, [[]])
    rows = [{"text": "?\n(A) x\n(B) y", "label": "A", "image": "a.jpg", "question_id": 0}]
    rows += [
        rows[0] | {field: value}
        for field, value in itertools.product(("text", "label", "image", "category", "question_id"), odd)
    ]
    write_lines(
        tmp_path / "test_questions.jsonl", [*rows, "NaN", "[]", "null", "\ud800".encode("utf-8", "replace").decode()]
    )
    write_image(tmp_path / "a.jpg")
    items = list(VStar(tmp_path))
    assert len(items) == len(rows) + 4 == len({item.id for item in items})
    assert isinstance(items[0], Item) and sum(isinstance(item, UnreadableItem) for item in items) > 30


@pytest.mark.parametrize(
    ("text", "question", "options"),
    [
        ("Q?\n(A) a\n(B) b", "Q?", ["a", "b"]),
        ("Q?\nA. a\nB. b\nAnswer with the letter.", "Q?", ["a", "b"]),
        ("Q?\nOptions:\nA. a\nB. b", "Q?", ["a", "b"]),
        ("Q? (A) a (B) b, (C) c", "Q?", ["a", "b,", "c"]),
        ("Q? (A) the (old) one (B) b Answer with the option's letter.", "Q?", ["the (old) one", "b"]),
        ("One.\nTwo?\n(A) a (x)\n(B) b", "One.\nTwo?", ["a (x)", "b"]),
        ("(A) a\n(B) b", "", ["a", "b"]),
        ("What is (A)?", "What is (A)?", []),
        ("Q?\n(A) a\n(C) c", "Q?\n(A) a\n(C) c", []),
        ("Q?\n(B) a\n(A) b\n(B) c", "Q?\n(B) a", ["b", "c"]),
        ("", "", []),
    ],
)
def test_options_in_a_text(text, question, options):
    assert split_text(text) == (question, options)


def test_labels_of_options():
    assert [without_label(text, 1) for text in ("(B) x", "B. x", "B) x", "A. x", "x", "B")] == [
        "x",
        "x",
        "x",
        "A. x",
        "x",
        "B",
    ]


def test_options_are_shuffled_by_item_and_seed(tmp_path):
    text = "Which {}?\n(A) a\n(B) b\n(C) c\n(D) d"
    rows = [{"text": text.format(n), "label": "C", "image": "a.jpg", "question_id": n} for n in range(40)]
    write_lines(tmp_path / "test_questions.jsonl", rows)
    write_image(tmp_path / "a.jpg")
    first, same, other = (list(VStar(tmp_path, "shuffled", seed)) for seed in (0, 0, 1))
    assert [item.order for item in first] == [item.order for item in same] != [item.order for item in other]
    assert len({item.order for item in first}) > 10
    for item in first:
        assert item.options[item.right] == "c" and "".join("abcd"[place] for place in item.order) == "".join(
            item.options
        )
    assert len(first) == 40 and first[3].letter == "ABCD"[first[3].order.index(2)]


def test_a_prompt_holds_the_question_and_nothing_of_the_answer():
    item = Item("1", "Which {one}?", ("red {x}", "blue"), right=1, images=("a.jpg",), answers=())
    assert item.query(Prompt()) == {"id": "1", "question": "Which {one}?\n(A) red {x}\n(B) blue", "images": ["a.jpg"]}
    assert Prompt("Q: {question}\nOptions:\n{options}\n", "{letter}. {text}").text(item) == (
        "Q: Which {one}?\nOptions:\nA. red {x}\nB. blue\n"
    )
    assert Prompt().text(Item("1", "How many?", answers=("42",))) == "How many?"
    assert item.reference == "B. blue" and Item("1", "?", answers=("a", "a")).reference == "a"


@pytest.mark.parametrize(
    ("clip", "bounds"),
    [
        (Clip(1.0, 2.0), (10, 20)), (Clip(0.0, 99.0), (0, 29)), (Clip(50.0, 60.0), (29, 29)), (Clip(2.0, 1.0),
        (20, 20)),
        (Clip(-3.0, 1.0), (0, 10)), (Clip(math.nan, math.inf), (0, 29)), (Clip(-math.inf, math.nan), (0, 29)),
    ],
)  # fmt: skip
def test_clips_stay_in_the_video(clip, bounds):
    assert clip.bounds(30, 10.0) == bounds
    chosen = clip.indices(30, 10.0, 4)
    assert chosen == sorted(set(chosen)) and bounds[0] <= chosen[0] and chosen[-1] <= bounds[1]


def test_frames_of_a_clip_by_the_published_formula():
    # seg = (20 - 10) / 4 = 2.5; int(10 + 1.25 + round(2.5 * k)): 11.25, 13.25, 16.25, 19.25
    assert Clip(1.0, 2.0).indices(30, 10.0, 4) == [11, 13, 16, 19]
    assert Clip(0.0, 1.0).take(["a", "b", "c", "d", "e"], 3.0, 16) == ["a", "b", "c", "d"]
    with pytest.raises(MediaError, match="no frames"):
        Clip(0.0, 1.0).bounds(0, 10.0)


def test_items_are_taken_from_both_ends(tmp_path):
    write_lines(
        tmp_path / "test_questions.jsonl",
        [{"text": "?\n(A) x\n(B) y", "label": "A", "image": "a.jpg", "question_id": n} for n in "ab"],
    )
    write_image(tmp_path / "a.jpg")
    benchmark = VStar(tmp_path)
    assert benchmark[-1].id == "b" and [item.id for item in benchmark] == ["a", "b"]
    with pytest.raises(IndexError):
        benchmark[2]


def test_a_damaged_file_does_not_hide_a_whole_form(tmp_path):
    (tmp_path / "test.json").write_text("{")
    with pytest.raises(UserError, match="test.json is not JSON"):
        find_benchmark("tallyqa")(tmp_path)
    rows = [{"index": n, "image": "", "question": "How many?", "answer": n, "image_path": "a.jpg"} for n in range(3)]
    write_tsv(tmp_path / "tallyqa_data.tsv", rows)
    write_image(tmp_path / "images/a.jpg")
    assert [item.answers for item in find_benchmark("tallyqa")(tmp_path)] == [("0",), ("1",), ("2",)]


@pytest.mark.parametrize("shuffles", [True, False])
def test_a_list_in_which_every_label_is_a_is_shuffled(tmp_path, shuffles):
    labels = "A" * 40 if shuffles else "A" * 39 + "B"
    rows = [{"text": "?\n(A) x\n(B) y", "label": label, "image": "a.jpg"} for label in labels]
    write_lines(tmp_path / "test_questions.jsonl", rows)
    write_image(tmp_path / "a.jpg")
    benchmark = VStar(tmp_path)
    assert {item.letter for item in benchmark} == {"A", "B"}
    assert sum("listed shuffled" in note for note in benchmark.notes) == shuffles
    assert all((item.order is not None) == shuffles for item in benchmark)


def test_a_file_of_another_name_is_taken_where_it_is_named(tmp_path):
    rows = [{"image": "a.jpg", "image_id": 1, "question_id": n, "question": "How many?", "answer": n} for n in range(3)]
    write_json(tmp_path / "mine.json", rows)
    write_image(tmp_path / "a.jpg")
    assert len(find_benchmark("tallyqa")(tmp_path / "mine.json")) == 3
    with pytest.raises(UserError, match="is not TallyQA"):
        find_benchmark("tallyqa")(tmp_path)


def test_a_folder_in_an_object_store(object_store, tmp_path):
    folder = as_path("gs://bucket/vstar")
    text = "?\n(A) x\n(B) y"
    rows = [{"text": text, "label": "B", "image": path} for path in ("a.jpg", "../../secret.jpg", "gs://other/a.jpg")]
    (folder / "test_questions.jsonl").write_bytes(write_lines(tmp_path / "a.jsonl", rows).read_bytes())
    (folder / "a.jpg").write_bytes(image_bytes())
    items = list(VStar("gs://bucket/vstar"))
    assert items[0].letter == "B" and items[0].images[0].endswith("vstar/a.jpg") and items[0].cluster
    assert [isinstance(item, UnreadableItem) for item in items] == [False, True, True]
    rows = [{"text": text, "label": "B", "image": {"bytes": image_bytes(n), "path": None}} for n in range(3)]
    embedded = as_path("gs://bucket/embedded/data/test-0.parquet")
    embedded.parent.mkdir(parents=True, exist_ok=True)
    embedded.write_bytes(write_parquet(tmp_path / "a.parquet", rows).read_bytes())
    assert [item.letter for item in VStar("gs://bucket/embedded")] == ["B"] * 3
