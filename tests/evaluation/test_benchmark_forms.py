"""The paper's four benchmarks in each of their published forms: three rows at least, with odd ones among them."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pixel_reasoner_jax.evaluation.benchmarks import Item, UnreadableItem, open_benchmark
from pixel_reasoner_jax.evaluation.scorers import SCORERS
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

INSTRUCTION = "Answer with the option's letter from the given choices directly."
V_TEXT = f"What is it?\n(A) red\n(B) green (light)\n(C) blue\n(D) white\n{INSTRUCTION}"
TWO_TEXT = f"Is the dog left or right?\n(A) left\n(B) right\n{INSTRUCTION}"


def read(benchmark) -> list[Item]:
    """All items, which must be readable."""
    items = list(benchmark)
    assert all(isinstance(item, Item) for item in items), items
    return items


def problems(benchmark) -> dict[str, str]:
    return {item.id: item.problem for item in benchmark if isinstance(item, UnreadableItem)}


def check_vstar(items: list[Item]) -> None:
    assert items[0].question == "What is it?" and items[0].options == ("red", "green (light)", "blue", "white")
    assert (items[0].letter, items[1].letter, items[1].options) == ("B", "A", ("left", "right"))
    assert [item.categories for item in items[:2]] == [
        {"subset": "direct_attributes"},
        {"subset": "relative_position"},
    ]
    assert [item.order for item in items] == [None] * len(items)
    assert len({item.cluster for item in items}) == len(items)


def test_vstar_list_of_questions(tmp_path):
    rows = [
        {"text": V_TEXT, "label": "B", "category": "direct_attributes", "question_id": "0",
         "image": "direct_attributes/sa_1.jpg"},
        {"text": TWO_TEXT, "label": "A", "category": "relative_position", "question_id": "1",
         "image": "relative_position/sa_2.jpg"},
        {"text": TWO_TEXT, "label": "C", "category": "relative_position", "question_id": "2",
         "image": "relative_position/sa_2.jpg"},
        {"text": TWO_TEXT, "label": "A", "category": "relative_position", "question_id": "3", "image": "../secret.jpg"},
        "{broken",
        {"text": "no options", "label": "A", "category": "x", "question_id": "5",
         "image": "direct_attributes/sa_1.jpg"},
    ]  # fmt: skip
    folder = tmp_path / "vstar"
    write_lines(folder / "test_questions.jsonl", rows)
    write_image(folder / "direct_attributes/sa_1.jpg", 1)
    write_image(folder / "relative_position/sa_2.jpg", 2)
    write_image(tmp_path / "secret.jpg", 3)
    benchmark = open_benchmark("vstar", folder)
    assert len(benchmark) == 6 and "6 rows" in benchmark.notes[0] and "191 are published" in benchmark.notes[0]
    check_vstar([benchmark[0], benchmark[1]])
    assert benchmark[0].cluster == "direct_attributes/sa_1.jpg"
    found = problems(benchmark)
    assert list(found) == ["2", "3", "#4", "5"]
    assert "not one of 2 options' letters" in found["2"] and "leads out" in found["3"] and "not JSON" in found["#4"]
    assert "lists no options" in found["5"]
    assert benchmark[2].categories == {"subset": "relative_position"}


def test_vstar_embedded_images(tmp_path):
    rows = [
        {"text": V_TEXT, "label": "B", "category": "direct_attributes", "question_id": "0",
         "image": {"bytes": image_bytes(1), "path": "a.jpg"}},
        {"text": TWO_TEXT, "label": "A", "category": "relative_position", "question_id": "1",
         "image": {"bytes": image_bytes(2), "path": None}},
        {"text": TWO_TEXT, "label": "A", "category": "relative_position", "question_id": "2",
         "image": {"bytes": b"no image", "path": "c.jpg"}},
    ]  # fmt: skip
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", rows)
    benchmark = open_benchmark("vstar", tmp_path)
    check_vstar([benchmark[0], benchmark[1]])
    assert benchmark[0].images == (image_bytes(1),)
    assert list(problems(benchmark)) == ["2"]


def test_vstar_table(tmp_path):
    rows = [
        {"index": 0, "image": base64_image(1), "question": "What is it?", "A": "red", "B": "green (light)",
         "C": "blue", "D": "white", "answer": "B", "category": "direct_attributes"},
        {"index": 1, "image": base64_image(2), "question": "Is the dog left or right?", "A": "left", "B": "right",
         "C": None, "D": "nan", "answer": "A", "category": "relative_position"},
        {"index": 2, "image": "1", "question": 'a "quoted"\tquestion\nof two lines', "A": "left", "B": "right",
         "answer": "B", "category": "relative_position"},
        {"index": 3, "image": "%%%" * 30, "question": "?", "A": "left", "B": "right", "answer": "B",
         "category": "relative_position"},
        {"index": 4, "image": "77", "question": "?", "A": "left", "B": "right", "answer": "B",
         "category": "relative_position"},
    ]  # fmt: skip
    write_tsv(tmp_path / "VStarBench.tsv", rows)
    benchmark = open_benchmark("vstar", tmp_path)
    check_vstar([benchmark[0], benchmark[1]])
    item = benchmark[2]
    assert item.question == 'a "quoted"\tquestion\nof two lines' and item.images == benchmark[1].images
    assert item.cluster == benchmark[1].cluster != benchmark[0].cluster
    found = problems(benchmark)
    assert "base64" in found["3"] and "row '77'" in found["4"]


def test_vstar_image_files_are_shuffled(tmp_path):
    for number, subset in enumerate(("direct_attributes", "relative_position", "relative_position")):
        write_image(tmp_path / subset / f"sa_{number}.jpg", number)
        row = {"target_object": [], "bbox": [], "question": f"Which {number}?", "options": ["right", "b", "c", "d"]}
        write_json(tmp_path / subset / f"sa_{number}.json", row)
    (tmp_path / "relative_position/sa_3.json").write_text("{")
    write_json(tmp_path / "relative_position/sa_10.json", {"question": "?", "options": ["x", "y"]})  # without image
    write_json(tmp_path / "OCR/sa_9.json", {"question": "?", "options": ["x", "y"]})  # not of the benchmark
    benchmark = open_benchmark("vstar", tmp_path)
    assert [item.id for item in benchmark] == [
        "direct_attributes/sa_0",
        *(f"relative_position/sa_{number}" for number in (1, 2, 3, 10)),
    ]
    for item in (benchmark[0], benchmark[1]):
        assert item.options[item.right] == "right" and sorted(item.order) == [0, 1, 2, 3]
        assert [("right", "b", "c", "d")[place] for place in item.order] == list(item.options)
    assert set(problems(benchmark)) == {"relative_position/sa_3", "relative_position/sa_10"}
    assert benchmark[4].categories == {"subset": "relative_position"}
    again = open_benchmark("vstar", tmp_path)
    assert [benchmark[i].order for i in range(3)] == [again[i].order for i in range(3)]


def test_vstar_knows_where_its_objects_are(tmp_path):
    """By the JSON file of each image, also where the list of questions is read; odd ones say nothing."""
    boxes = [[[8, 6, 16, 12]], [[0, 0, 40, 30], [20, 15, 10, 6]], [[1, 2, 3]], [[10**400, 0, 1, 1], "x", None], 7]
    rows = []
    for number, bbox in enumerate(boxes):
        write_image(tmp_path / f"direct_attributes/sa_{number}.jpg", number)
        fields = {"bbox": bbox, "question": "Which?", "options": ["right", "b"]}
        write_json(tmp_path / f"direct_attributes/sa_{number}.json", fields)
        row = {"text": TWO_TEXT, "label": "A", "category": "direct_attributes", "question_id": str(number)}
        rows.append(row | {"image": f"direct_attributes/sa_{number}.jpg"})
    (tmp_path / "direct_attributes/sa_4.json").write_text("[" * 100_000)
    width, height = Image.open(tmp_path / "direct_attributes/sa_0.jpg").size
    expected = [(8, 6, 24, 18), (20, 15, 30, 21), None, None, None]
    expected = [box and tuple(a / b for a, b in zip(box, (width, height) * 2, strict=True)) for box in expected]
    assert [item.object_box for item in list(open_benchmark("vstar", tmp_path))[:4]] == expected[:4]
    write_lines(tmp_path / "test_questions.jsonl", rows)
    assert [item.object_box for item in open_benchmark("vstar", tmp_path)] == expected


def test_always_the_first_letter_is_chance(tmp_path):
    """The trap of the files in which the right option is always the first."""
    counts = []
    for number in range(400):
        options = ["right", "wrong", "bad", "no"][: 2 if number % 3 else 4]
        counts.append(len(options))
        write_json(tmp_path / f"direct_attributes/sa_{number}.json", {"question": f"{number}?", "options": options})
        (tmp_path / f"direct_attributes/sa_{number}.png").write_bytes(image_bytes(0, (2, 2)))
    items = read(open_benchmark("vstar", tmp_path))
    chances = [1 / count for count in counts]
    expected = sum(chances) / 400
    error = sum(chance * (1 - chance) for chance in chances) ** 0.5 / 400
    for name in ("choice", "lmms-eval-letter", "vlmevalkit-letter", "deepeyes", "pixel-reasoner", "mini-o3"):
        reply = {"pixel-reasoner": "\\boxed{A}", "mini-o3": "<answer>A</answer>"}.get(name, "A")
        score = sum(SCORERS[name](reply, item) for item in items) / 400
        assert abs(score - expected) < 3 * error, name


def test_vstar_released(tmp_path):
    rows = [
        {"qid": "vstar-0", "question": f"<image>\n{V_TEXT}", "answer": ["B"], "image": ["images/a.jpg"],
         "is_video": False},
        {"qid": "vstar-1", "question": f"<image>{TWO_TEXT}", "answer": ["\\boxed{A}"], "image": ["images/b.jpg"],
         "is_video": False},
        {"qid": "vstar-1", "question": TWO_TEXT, "answer": ["right"], "image": ["/data/vstar_images/b.jpg"],
         "is_video": False},
        {"qid": "vstar-3", "question": TWO_TEXT, "answer": ["A"], "image": ["images/../../x.jpg"], "is_video": False},
    ]  # fmt: skip
    write_parquet(tmp_path / "v/vstar.parquet", rows)
    write_image(tmp_path / "v/images/a.jpg", 1)
    write_image(tmp_path / "v/images/b.jpg", 2)
    write_image(tmp_path / "x.jpg", 2)
    benchmark = open_benchmark("vstar", tmp_path / "v")
    first, second, third = (benchmark[index] for index in range(3))
    assert first.options == ("red", "green (light)", "blue", "white") and first.letter == "B"
    assert (second.letter, third.letter, third.question) == ("A", "B", "Is the dog left or right?")
    assert [second.id, third.id] == ["vstar-1#1", "vstar-1#2"] and second.cluster == third.cluster
    assert list(problems(benchmark)) == ["vstar-3"]
    assert open_benchmark("vstar", tmp_path / "v/vstar.parquet")[0].id == first.id


def tally(**changes):
    return {"image": "VG_100K/1.jpg", "image_id": 1, "question_id": 5, "question": "How many dogs?", "answer": 3,
            "data_source": "imported_genome", "issimple": True} | changes  # fmt: skip


def test_tallyqa_original(tmp_path):
    rows = [
        tally(),
        tally(question_id=6, answer=0, issimple=False, image="VG_100K_2/2.jpg"),
        tally(question_id=7, answer="12", issimple=None),
        tally(question_id=8, answer="many"),
        tally(question_id=9, answer=True),
        tally(question_id=10, image="VG_100K/404.jpg"),
        tally(question_id=11, question=" "),
        ["no object"],
    ]
    write_json(tmp_path / "test.json", rows)
    write_image(tmp_path / "VG_100K/1.jpg", 1)
    write_image(tmp_path / "images/VG_100K_2/2.jpg", 2)
    benchmark = open_benchmark("tallyqa", tmp_path)
    items = [benchmark[index] for index in range(3)]
    assert [item.answers for item in items] == [("3",), ("0",), ("12",)] and items[0].id == "1-5"
    assert [item.categories for item in items] == [{"subset": "simple"}, {"subset": "complex"}, {}]
    assert list(problems(benchmark)) == ["1-8", "1-9", "1-10", "1-11", "#7"]
    assert "8 rows" in benchmark.notes[0] and "38,589" in benchmark.notes[0]
    query = items[0].query(benchmark.prompts["vlmevalkit"])
    assert query == {
        "id": "1-5",
        "question": "How many dogs?\nAnswer the question using a single number.",
        "images": [str(tmp_path / "VG_100K/1.jpg")],
    }


def test_tallyqa_table_and_released(tmp_path):
    rows = [
        {"index": n, "image": base64_image(n), "question": "How many?", "answer": answer}
        for n, answer in enumerate((3, 0, "five"))
    ]
    write_tsv(tmp_path / "tsv/tallyqa_data.tsv", rows)
    benchmark = open_benchmark("tallyqa", tmp_path / "tsv")
    assert [benchmark[n].answers for n in range(2)] == [("3",), ("0",)] and list(problems(benchmark)) == ["2"]
    rows = [
        {"qid": f"tallyqa-{n}", "question": "How many?", "answer": answer, "image": [f"images/{n}.jpg"]}
        for n, answer in enumerate(("3", "\\boxed{4}", "5"))
    ]
    write_parquet(tmp_path / "pr/tallyqa_mini3200.parquet", rows)
    for number in range(2):
        write_image(tmp_path / f"pr/tallyqa_images/{number}.jpg", number)
    benchmark = open_benchmark("tallyqa", tmp_path / "pr")
    assert [benchmark[n].answers for n in range(2)] == [("3",), ("4",)] and list(problems(benchmark)) == ["tallyqa-2"]


def test_infovqa_original_and_its_submission(tmp_path):
    def row(number, **changes):
        return {"questionId": number, "question": f"What {number}?", "image_local_name": "1.jpeg"} | changes

    write_image(tmp_path / "images/1.jpeg", 1)
    rows = [
        row(10, answers=["12", "12%"]),
        row(11, answers=["a, b"]),
        row(12, answers=[]),
        row(13, answers="x", image_local_name="2.jpeg"),
    ]
    write_json(tmp_path / "infographicsVQA_val_v1.0_withQT.json", {"dataset_name": "x", "data": rows})
    write_json(tmp_path / "infographicsVQA_test_v1.0.json", {"data": [row(n) for n in (20, 21, 22)]})
    benchmark = open_benchmark("infovqa", tmp_path)
    assert [benchmark[n].answers for n in range(3)] == [("12", "12%"), ("a, b"), ()] or benchmark[1].answers == (
        "a, b",
    )
    assert [benchmark[n].answered for n in range(3)] == [True, True, False] and list(problems(benchmark)) == ["13"]
    test = read(open_benchmark("infovqa", tmp_path / "infographicsVQA_test_v1.0.json"))
    assert not any(item.answered for item in test)
    submission = benchmark.submission({item.id: f"answer é {item.id}" for item in test})
    assert json.loads(submission) == [{"questionId": n, "answer": f"answer é {n}"} for n in (20, 21, 22)]


def test_infovqa_embedded_table_and_released(tmp_path):
    image = {"bytes": image_bytes(1), "path": "1.jpg"}
    rows = [
        {"questionId": "70", "question": "a?", "answers": ["x", "X"], "answer_type": ["single span"],
         "operation/reasoning": [], "image": image},
        {"questionId": "71", "question": "b?", "answers": ["y"], "answer_type": ["multi-span", "non-extractive"],
         "operation/reasoning": ["counting"], "image": image},
        {"questionId": "72", "question": "c?", "answers": None, "answer_type": None, "operation/reasoning": None,
         "image": {"bytes": None, "path": "gone.jpg"}},
    ]  # fmt: skip
    write_parquet(tmp_path / "hf/InfographicVQA/validation-00000-of-00001.parquet", rows)
    benchmark = open_benchmark("infovqa", tmp_path / "hf")
    assert benchmark[0].categories == {"answer_type": "single span"} and benchmark[0].answers == ("x", "X")
    assert benchmark[1].categories == {"answer_type": "multi-span + non-extractive", "operation": "counting"}
    assert benchmark[0].cluster == benchmark[1].cluster and list(problems(benchmark)) == ["72"]
    rows = [
        {"index": n, "image": base64_image(n), "question": "?", "answer": answer}
        for n, answer in enumerate(("['12', '12%']", "plain", None, "[x]"))
    ]
    write_tsv(tmp_path / "tsv/InfoVQA_VAL.tsv", rows)
    items = read(open_benchmark("infovqa", tmp_path / "tsv"))
    assert [item.answers for item in items] == [("12", "12%"), ("plain",), (), ("[x]",)]
    rows = [
        {"qid": f"infovqa-{n}", "question": "?", "answer": answer, "image": ["images/1.jpg"]}
        for n, answer in enumerate((["\\boxed{a, b}"], ["c", "d"], ["e"]))
    ]
    write_parquet(tmp_path / "pr/infovqa.parquet", rows)
    write_image(tmp_path / "pr/images/1.jpg")
    assert [item.answers for item in read(open_benchmark("infovqa", tmp_path / "pr"))] == [
        ("a, b",),
        ("c", "d"),
        ("e",),
    ]


def mvbench_row(**changes):
    return {
        "video": "1.mp4",
        "question": "What next?",
        "candidates": ["run", "jump", "sit"],
        "answer": "jump",
    } | changes


def test_mvbench_main(tmp_path):
    write_json(tmp_path / "json/action_sequence.json", [mvbench_row(start=0.5, end=1.0), mvbench_row(start="x", end=1)])
    write_json(
        tmp_path / "json/object_shuffle.json",
        [mvbench_row(video="2.mp4"), mvbench_row(answer="fly"), mvbench_row(video="../2.mp4")],
    )
    write_json(tmp_path / "json/episodic_reasoning.json", [mvbench_row(video="show", start=1.0, end=99.0)])
    write_json(tmp_path / "json/notes.json", [mvbench_row()])
    write_video(tmp_path / "video/star/Charades_v1_480/1.mp4")
    write_video(tmp_path / "perception/videos/2.mp4")
    for number in range(1, 8):
        write_image(tmp_path / f"video/tvqa/frames_fps3_hq/show/{number:05d}.jpg", number)
    benchmark = open_benchmark("mvbench", tmp_path)
    by_task = {item.categories["task"]: item for item in benchmark if isinstance(item, Item)}
    bounded, whole, frames = (by_task[task] for task in ("action_sequence", "object_shuffle", "episodic_reasoning"))
    assert (bounded.letter, bounded.options) == ("B", ("run", "jump", "sit")) and bounded.clip.end == 1.0
    assert whole.clip is None and whole.query(benchmark.prompts["plain"])["video"].endswith("2.mp4")
    video = bounded.query(benchmark.prompts["plain"], frames=3)["video"]
    assert len(video.frames) == 3 and video.times == pytest.approx((0.5, 0.7, 0.8), abs=0.11)
    assert [path[-9:] for path in frames.video] == [
        "00004.jpg",
        "00005.jpg",
        "00006.jpg",
        "00007.jpg",
    ] and frames.fps == 3
    assert len(problems(benchmark)) == 3 and len(benchmark) == 6
    assert "17 of 20 tasks are missing" in benchmark.notes[0] and "action_sequence 2" in benchmark.notes[1]


def test_mvbench_cut_clips_and_released(tmp_path):
    meta = {
        "Action Sequence": [mvbench_row(start=0.0, end=0.1)],
        "State Change": [mvbench_row(), mvbench_row(video="gone.mp4"), 7],
    }
    root = {"Action Sequence": "star/Charades_segment", "State Change": "perception/videos"}
    write_json(tmp_path / "cut/test.json", {"root": root, "meta": meta})
    write_video(tmp_path / "cut/video/star/Charades_segment/1.mp4")
    write_video(tmp_path / "cut/perception/videos/1.mp4")
    benchmark = open_benchmark("mvbench", tmp_path / "cut")
    assert [benchmark[n].categories for n in range(3)] == [{"task": "action_sequence"}, *[{"task": "state_change"}] * 2]
    assert benchmark[0].clip is None and list(problems(benchmark)) == ["2", "3"]
    text = "What next?\n(A) run\n(B) jump"
    rows = [
        {"qid": f"mvbench-{n}", "question": text, "answer": ["B"],
         "image": [f"images/{frame}.jpg" for frame in range(n + 2)], "is_video": True}
        for n in range(3)
    ]  # fmt: skip
    write_parquet(tmp_path / "pr/mvbench.parquet", rows)
    for number in range(4):
        write_image(tmp_path / f"pr/mvbench_images/{number}.jpg", number)
    items = read(open_benchmark("mvbench", tmp_path / "pr"))
    assert [len(item.video) for item in items] == [2, 3, 4] and items[0].options == ("run", "jump")
    write_parquet(tmp_path / "pr/mvbench.parquet", [row | {"question": "What? A, run; B, jump"} for row in rows])
    unlisted = open_benchmark("mvbench", tmp_path / "pr")[0]
    assert (unlisted.options, unlisted.letter, unlisted.question) == ((), "B", "What? A, run; B, jump")
    for name in ("choice", "vlmevalkit-letter", "mvbench-authors", "pixel-reasoner"):
        assert [SCORERS[name](f"\\boxed{{{letter}}}", unlisted) for letter in "AB"] == [0.0, 1.0]
