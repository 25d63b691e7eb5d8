"""The other benchmarks in each of their published forms."""

from __future__ import annotations

import json

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks import Item, UnreadableItem, open_benchmark
from tests.evaluation.forms import (
    base64_image,
    image_bytes,
    write_image,
    write_json,
    write_lines,
    write_parquet,
    write_tsv,
    write_video,
)

IMAGE = {"bytes": image_bytes(1), "path": "1.jpg"}


def read(benchmark) -> list[Item]:
    """All items, which must be readable."""
    items = list(benchmark)
    assert all(isinstance(item, Item) for item in items), items
    return items


def unreadable(benchmark) -> list[str]:
    return [item.id for item in benchmark if isinstance(item, UnreadableItem)]


def hr_rows(count: int) -> list[dict]:
    """Groups of four rows, the right option at A, B, C, D in turn."""
    rows = []
    for index in range(count):
        cycle = index % 4
        options = {letter: "right" if place == cycle else f"wrong {letter}" for place, letter in enumerate("ABCD")}
        row = {
            "index": index,
            "question": f"What {index // 4}?",
            "answer": "ABCD"[cycle],
            "image": base64_image(index // 4),
        }
        rows.append(row | options | {"category": ("single", "cross")[index // 4 % 2], "cycle_category": str(cycle)})
    return rows


@pytest.mark.parametrize("suffix", ["parquet", "tsv"])
def test_hrbench(tmp_path, suffix):
    rows = hr_rows(12)
    rows[11]["image"] = "AAAA" * 40
    {"parquet": write_parquet, "tsv": write_tsv}[suffix](tmp_path / f"hr_bench_4k.{suffix}", rows)
    benchmark = open_benchmark("hrbench4k", tmp_path)
    items = list(benchmark)
    assert [item.cluster for item in items] == [f"question {index // 4}" for index in range(12)]
    assert [items[n].letter for n in range(4)] == list("ABCD")
    assert all(item.options[item.right] == "right" for item in items[:11])
    assert items[4].categories == {"subset": "cross", "cycle": "0"} == items[4].categories
    assert unreadable(benchmark) == ["11"] and items[11].categories == {
        "subset": "cross" if 11 // 4 % 2 else "single",
        "cycle": "3",
    }
    assert "12 rows" in benchmark.notes[0]


def test_hrbench_8k_takes_its_own_file(tmp_path):
    write_parquet(tmp_path / "hr_bench_4k.parquet", hr_rows(4))
    write_parquet(tmp_path / "hr_bench_8k.parquet", hr_rows(8))
    assert len(open_benchmark("hrbench8k", tmp_path)) == 8 and len(open_benchmark("hrbench4k", tmp_path)) == 4


def test_visualprobe(tmp_path):
    rows = [
        {"images": ["VisualProbe_Hard/data/visual_probe_hard_0.jpg"], "problem": "<image>\nWhat colour?",
         "solution": "White.", "doc_id": "h0"},
        {"images": ["data/visual_probe_hard_0.jpg"], "problem": "How many?", "solution": 8, "doc_id": "h0"},
        {"images": ["data/404.jpg"], "problem": "How many?", "solution": "8", "doc_id": "h2"},
    ]  # fmt: skip
    write_json(tmp_path / "VisualProbe_Hard/val.json", rows)
    write_image(tmp_path / "VisualProbe_Hard/data/visual_probe_hard_0.jpg")
    write_json(
        tmp_path / "VisualProbe_Easy/val.json", [rows[0] | {"images": ["VisualProbe_Easy/data/e.jpg"], "doc_id": "e0"}]
    )
    write_image(tmp_path / "VisualProbe_Easy/data/e.jpg", 1)
    one = open_benchmark("visualprobe", tmp_path / "VisualProbe_Hard")
    assert [item.id for item in one] == ["h0#0", "h0#1", "h2"] and unreadable(one) == ["h2"]
    assert one[0].question == "What colour?" and one[0].answers == ("White.",) and one[1].answers == ("8",)
    assert one.notes == ("VisualProbe hard: 3 rows, 106 are published",)
    both = open_benchmark("visualprobe", tmp_path)
    assert [item.categories["level"] for item in both] == ["easy", "hard", "hard", "hard"] and len(both.notes) == 2
    line = {"question_id": "q", "image": "data/e.jpg", "question": "What?", "answer": "brown", "category": "x"}
    write_lines(tmp_path / "converted/VisualProbe_Easy.jsonl", [line, line | {"question_id": "r"}, "nothing"])
    write_image(tmp_path / "converted/data/e.jpg")
    converted = open_benchmark("visualprobe", tmp_path / "converted")
    assert (
        converted[0].answers == ("brown",)
        and converted[0].categories == {"level": "easy"}
        and unreadable(converted) == ["#2"]
    )


MME_OPTIONS = ["(A) one", "(B) two", "(C) three", "(D) four", "(E) The image does not show it"]


def test_mme_realworld_lite(tmp_path):
    row = {"Question_id": "x/1", "Question Type": "MC", "Image": "a/1.png", "Text": "How many?",
     "Answer choices": MME_OPTIONS,
           "Ground truth": "E", "Task": "Perception", "Subtask": "Remote Sensing", "Category": "count"}  # fmt: skip
    rows = [row, row | {"Ground truth": "B"}, row | {"Ground truth": "F"}, row | {"Image": "a/2.png"}]
    write_json(tmp_path / "json/MME_RealWorld_Lite.json", rows)
    write_image(tmp_path / "json/data/a/1.png")
    benchmark = open_benchmark("mme_realworld_lite", tmp_path / "json")
    assert [item.id for item in benchmark] == ["0", "1", "2", "3"] and unreadable(benchmark) == ["2", "3"]
    assert (
        benchmark[0].options == ("one", "two", "three", "four", "The image does not show it")
        and benchmark[0].letter == "E"
    )
    assert benchmark[0].categories == {"task": "Perception", "subtask": "Remote Sensing", "kind": "count"}
    shuffled = open_benchmark("mme_realworld_lite", tmp_path / "json", order="shuffled", seed=3)
    assert shuffled[0].letter == "E" and {shuffled[1].options[shuffled[1].right]} == {"two"}
    words = benchmark[0].query(benchmark.prompts["original"])["question"]
    assert words.startswith("How many? The choices are listed below:\n(A) one\n(B) two\n") and words.endswith(
        "The best answer is:"
    )


@pytest.mark.parametrize("options", [MME_OPTIONS, json.dumps(MME_OPTIONS)])
def test_mme_realworld_lite_embedded(tmp_path, options):
    rows = [
        {"index": n, "question": "?", "multi-choice options": options, "answer": "C", "category": "Reasoning/count",
         "l2-category": "Monitoring", "bytes": base64_image(n)}
        for n in range(3)
    ]  # fmt: skip
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", rows)
    items = read(open_benchmark("mme_realworld_lite", tmp_path))
    assert items[2].options[items[2].right] == "three"
    assert items[0].categories == {"task": "Reasoning", "subtask": "Monitoring", "kind": "count"}
    table = [
        {
            "index": n,
            "image": base64_image(n),
            "question": "?",
            "multi-choice options": json.dumps(MME_OPTIONS),
            "answer": "C",
            "category": "Perception/x",
        }
        for n in range(3)
    ]
    write_tsv(tmp_path / "tsv/mme_realworld_lite.tsv", table)
    assert [item.letter for item in read(open_benchmark("mme_realworld_lite", tmp_path / "tsv"))] == ["C"] * 3


def test_docvqa(tmp_path):
    rows = [
        {
            "questionId": n,
            "question": "Date?",
            "image": "documents/1.png",
            "answers": ["1/8/93"],
            "question_types": ["form"],
        }
        for n in range(3)
    ]
    rows[2]["image"] = "documents/2.png"
    write_json(tmp_path / "val_v1.0_withQT.json", {"data": rows})
    write_image(tmp_path / "val/documents/1.png")
    benchmark = open_benchmark("docvqa", tmp_path)
    assert benchmark[0].answers == ("1/8/93",) and unreadable(benchmark) == ["2"]
    assert benchmark[2].categories == {"question_type": "form"}
    rows = [
        {
            "questionId": str(n),
            "question": "Date?",
            "question_types": ["form", "layout"],
            "image": IMAGE,
            "docId": 1,
            "answers": None,
        }
        for n in range(3)
    ]
    write_parquet(tmp_path / "hf/DocVQA/test-00000-of-00002.parquet", rows[:2])
    write_parquet(tmp_path / "hf/DocVQA/test-00001-of-00002.parquet", rows[2:])
    test = read(open_benchmark("docvqa", tmp_path / "hf"))
    assert [item.id for item in test] == ["0", "1", "2"] and not any(item.answered for item in test)
    write_tsv(
        tmp_path / "tsv/DocVQA_VAL.tsv",
        [{"index": n, "question": "?", "answer": "['a']", "image": base64_image()} for n in range(3)],
    )
    assert [item.answers for item in read(open_benchmark("docvqa", tmp_path / "tsv"))] == [("a",)] * 3
    with pytest.raises(UserError, match="is not InfographicsVQA"):
        open_benchmark("infovqa", tmp_path / "hf/DocVQA")


def test_textvqa(tmp_path):
    rows = [
        {"image_id": "a1", "question_id": n, "question": "brand?", "answers": ["nike"] * 9 + ["x"]} for n in range(3)
    ]
    rows[2]["image_id"] = "../a1"
    write_json(tmp_path / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    write_image(tmp_path / "train_images/a1.jpg")
    benchmark = open_benchmark("textvqa", tmp_path)
    assert benchmark[0].answers == ("nike",) * 9 + ("x",) and benchmark[0].reference == ["nike", "x"]
    assert unreadable(benchmark) == ["2"]
    assert json.loads(benchmark.submission({"0": "nike"})) == [{"question_id": 0, "answer": "nike"}]
    rows = [
        {"image_id": "a", "question_id": n, "question": "?", "answers": ["a"] * 10, "image": IMAGE} for n in range(3)
    ]
    write_parquet(tmp_path / "hf/data/validation-00000-of-00001.parquet", rows)
    assert [len(item.answers) for item in read(open_benchmark("textvqa", tmp_path / "hf"))] == [10] * 3
    write_tsv(
        tmp_path / "tsv/TextVQA_VAL.tsv",
        [{"index": n, "question": "?", "answer": "['a', 'a']", "image": base64_image()} for n in range(3)],
    )
    assert [item.answers for item in read(open_benchmark("textvqa", tmp_path / "tsv"))] == [("a", "a")] * 3


def test_chartqa(tmp_path):
    folder = tmp_path / "ChartQA Dataset"
    rows = [
        {"imgname": f"{n}.png", "query": "Share?", "label": label} for n, label in enumerate(("0.6", "2010", "Yes"))
    ]
    write_json(folder / "test/test_human.json", rows)
    write_json(folder / "test/test_augmented.json", rows[:2])
    for number in range(2):
        write_image(folder / f"test/png/{number}.png", number)
    for path in (folder, tmp_path):
        benchmark = open_benchmark("chartqa", path)
        assert [item.categories["subset"] for item in benchmark] == ["human"] * 3 + ["augmented"] * 2
        assert unreadable(benchmark) == ["2"] and benchmark[3].answers == ("0.6",) and benchmark[3].id == "3"
    rows = [
        {"type": kind, "question": "?", "answer": answer, "image": IMAGE}
        for kind, answer in (("human_test", "1"), ("augmented_test", "2"), ("human_test", "3"))
    ]
    write_parquet(tmp_path / "hf/test-00000-of-00001.parquet", rows)
    items = read(open_benchmark("chartqa", tmp_path / "hf"))
    assert [(item.categories["subset"], item.answers) for item in items] == [
        ("human", ("1",)),
        ("augmented", ("2",)),
        ("human", ("3",)),
    ]
    write_tsv(
        tmp_path / "tsv/ChartQA_TEST.tsv",
        [
            {"index": n, "question": "?", "answer": "4", "split": "test_human", "image": base64_image()}
            for n in range(3)
        ],
    )
    assert [item.categories for item in read(open_benchmark("chartqa", tmp_path / "tsv"))] == [{"subset": "human"}] * 3


def test_videomme(tmp_path):
    rows = [
        {"video_id": "001", "videoID": f"v{n // 2}", "duration": "short", "domain": "Knowledge",
         "sub_category": "Humanity", "task_type": "OCR",
         "question_id": f"001-{n}", "question": "What?", "options": ["A. x.", "B. y.", "C. z.", "D. w."], "answer": "C"}
        for n in range(4)
    ]  # fmt: skip
    write_parquet(tmp_path / "videomme/test-00000-of-00001.parquet", rows)
    write_video(tmp_path / "data/v0.mp4")
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "subtitle/v0.srt").write_text("1\n")
    benchmark = open_benchmark("videomme", tmp_path)
    assert benchmark[0].options == ("x.", "y.", "z.", "w.") and benchmark[0].letter == "C"
    assert benchmark[0].extra["subtitles"].endswith("v0.srt") and [item.cluster for item in benchmark] == [
        "v0",
        "v0",
        "v1",
        "v1",
    ]
    assert unreadable(benchmark) == ["001-2", "001-3"]
    assert benchmark[3].categories == {
        "duration": "short",
        "domain": "Knowledge",
        "subdomain": "Humanity",
        "task": "OCR",
    }


def test_pixel_search():
    benchmark = open_benchmark("pixel_search", "heldout:3", seed=1)
    items = read(benchmark)
    assert len(items) == 3 == len({item.id for item in items}) and items[0].question and items[0].answers
    assert benchmark[-1].id == items[2].id and set(items[0].query(benchmark.prompts["plain"])) == {
        "id",
        "question",
        "images",
    }
    with pytest.raises(UserError, match="SPLIT:COUNT"):
        open_benchmark("pixel_search", "nowhere")
