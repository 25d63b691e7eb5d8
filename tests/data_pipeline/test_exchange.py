"""Tables in the released form are read, what cannot be is named, and what is exported comes back."""

import base64
import io
import json

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from data_pipeline import lessons
from data_pipeline.exchange.exporting import export_table
from data_pipeline.exchange.importing import IMPORT_REPORT, import_tables
from data_pipeline.exchange.loss_masks import LOSS_MASK_RULES
from data_pipeline.records import RecordSource, write_records
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.commands import cli
from tests.processing.avi import write_avi


def call(name: str = "crop_image_normalized", **arguments) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def said(role: str, *items) -> dict:
    """A message as the released tables hold it: every key is there, the unused ones null."""
    keys = {"text": None, "image": None, "video": None}
    return {"role": role, "content": [{**keys, **item} for item in items]}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def crop(size: str = "56x56", image: str = "crop.png") -> dict:
    shown = text(f"\nHere is the cropped image (Image Size: {size}):")
    return said("user", shown, {"type": "image", "image": image})


QUESTION = "Which digit?\n\nGuidelines: Understand the given visual information."
OPENING = [
    said("system", text("You are a helpful assistant.")),
    said("user", {"type": "image", "image": "scene.png"}, text(QUESTION)),
]
LARGE, SMALL, OTHER = [0.1, 0.1, 0.9, 0.9], [0.3, 0.3, 0.4, 0.4], [0.6, 0.6, 0.7, 0.7]


def conversation(*boxes, answer: str = r"It is \boxed{7}.") -> list:
    turns = []
    for box in boxes:
        turns += [said("assistant", text(f"I zoom in.\n{call(bbox_2d=box, target_image=1)}")), crop()]
    return [*OPENING, *turns, said("assistant", text(answer))]


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("scene.png", "crop.png", "1.jpg", "2.jpg"):
        Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "scene.png").read_bytes()[:200])
    return tmp_path


def imported(folder, rows, name="rows.json", **options):
    (folder / name).write_text(json.dumps(rows))
    report = import_tables([folder / name], folder / "out", **options)
    assert json.loads((folder / "out" / IMPORT_REPORT).read_text()) == report
    return report, list(RecordSource(folder / "out"))


def trained(draft) -> list[str]:
    return [
        item["text"]
        for message in draft.messages
        if message["role"] == "assistant"
        for item in message["content"]
        if item["train"]
    ]


def test_released_trajectories(folder):
    rows = [
        {"qid": 5, "message_list": conversation(*boxes)} for boxes in ((), (SMALL,), (LARGE, SMALL), (OTHER, SMALL))
    ]
    rows.append({"message_list": conversation(OTHER, LARGE, SMALL)})
    report, drafts = imported(folder, rows)
    kinds = ["text_only", "single_pass", "further_zoom", "recrop_once", "recrop_twice"]
    assert [draft.kind for draft in drafts] == kinds and report["types"] == dict.fromkeys(kinds, 1)
    assert [draft.query_id for draft in drafts] == ["5"] * 4 + ["rows-000004"]
    draft = drafts[2]
    assert (draft.question, draft.reference) == ("Which digit?", "7")
    assert [operation.arguments["bbox_2d"] for operation in draft.operations] == [LARGE, SMALL]
    assert [(operation.turn, operation.sizes) for operation in draft.operations] == [(0, ((56, 56),)), (1, ((56, 56),))]
    images = [item for message in draft.messages for item in message["content"] if item["type"] == "image"]
    assert [item.get("kind") for item in images] == [None, "crop", "crop"]
    assert images[0]["image"] == (folder / "scene.png").read_bytes()


def test_what_is_imported_can_be_rendered(folder, processor):
    from data_pipeline.pipeline import render_trajectory

    _, [draft] = imported(folder, [{"message_list": conversation(LARGE, SMALL)}])
    trajectory = render_trajectory(draft, processor)
    words = processor.tokenizer.decode(trajectory.tokens[trajectory.train])
    assert words.count("I zoom in.") == 2 and words.count("tool_call") == 2 and words.count("<|im_end|>") == 2
    assert "0.3" in words and "0.1" not in words and "7" in words


CALLS = [call(bbox_2d=box, target_image=1) for box in (OTHER, LARGE, SMALL)]
RULES = {
    "last-call": ["I zoom in.\n", "I zoom in.\n", f"I zoom in.\n{CALLS[2]}", r"It is \boxed{7}."],
    "last-two-turns": [f"I zoom in.\n{CALLS[2]}", r"It is \boxed{7}."],
    "all": [*(f"I zoom in.\n{written}" for written in CALLS), r"It is \boxed{7}."],
}


@pytest.mark.parametrize("rule", LOSS_MASK_RULES)
def test_rules_of_the_mask(rule, folder):
    report, [draft] = imported(folder, [{"message_list": conversation(OTHER, LARGE, SMALL)}], mask=rule)
    assert trained(draft) == RULES[rule] and report["mask"] == rule


def test_a_failed_last_call_is_not_trained_and_flags_of_a_row_stay(folder):
    failed = conversation(SMALL)
    failed[3] = said("user", text("\nExecution error:\nthe box is empty\n"))
    flagged = conversation(SMALL)
    flagged[2]["content"][0]["train"] = False
    flagged[4]["content"][0]["train"] = True
    _, drafts = imported(folder, [{"message_list": failed}, {"message_list": flagged}])
    assert drafts[0].operations[0].error == "the box is empty"
    assert trained(drafts[0]) == ["I zoom in.\n", r"It is \boxed{7}."]
    assert trained(drafts[1]) == [r"It is \boxed{7}."]


def test_videos(folder):
    frames = [*OPENING[:1], said("user", {"type": "video", "video": ["1.jpg", "2.jpg"]}, text("What happens?"))]
    select = said("assistant", text(f"Look.\n{call('select_frames', target_frames=[2])}"))
    shown = text("\nHere are the selected frames (Frame Size: 84x56, Numbered 1 to 1):")
    observed = said("user", shown, {"type": "image", "image": "2.jpg"})
    rows = [{"message_list": [*frames, select, observed, said("assistant", text(r"\boxed{jump}"))]}]
    _, [draft] = imported(folder, rows)
    assert draft.kind == "single_pass" and draft.operations[0].sizes == ((84, 56),)
    assert [item.get("kind") for item in draft.messages[3]["content"]] == [None, "frame"]
    assert draft.messages[1]["content"][0]["video"] == [(folder / name).read_bytes() for name in ("1.jpg", "2.jpg")]


def test_released_queries(folder):
    write_avi(folder / "film.avi", [Image.new("RGB", (64, 48), color) for color in ("red", "green")], fps=1)
    encoded = (folder / "scene.png").read_bytes()
    rows = [
        {"question": "a?", "answer": "1", "image": ["scene.png"], "is_video": False, "qid": "a"},
        {"question": "b?", "answer": ["2", "two"], "image": ["1.jpg", "2.jpg"], "is_video": True, "qid": "b"},
        {"question": "c?", "answer": 3, "image": "data:image/png;base64," + base64.b64encode(encoded).decode()},
        {"question": "d?", "answer": "4", "image": ["film.avi"], "is_video": True, "qid": "d"},
        {"question": "e?", "answer": "5"},
    ]
    report, (a, b, c, d, e) = imported(folder, rows)
    assert report["kind"] == "query" and report["unreadable"] == []
    assert a == {"id": "a", "question": "a?", "answer": "1", "images": [encoded]}
    assert b["answer"] == ["2", "two"] and b["video"][1] == (folder / "2.jpg").read_bytes() and "images" not in b
    assert c["id"] == "rows-000002" and c["answer"] == "3" and c["images"] == [encoded]
    assert d["video"] == (folder / "film.avi").read_bytes() and e == {
        "id": "rows-000004",
        "question": "e?",
        "answer": "5",
    }


def test_paths_are_kept_where_asked(folder):
    _, [query] = imported(folder, [{"question": "?", "answer": "1", "image": ["scene.png"]}], keep_paths=True)
    assert query["images"] == [str(folder / "scene.png")]


BROKEN = {
    "no such file": {"message_list": [*OPENING[:1], said("user", {"type": "image", "image": "gone.png"}, text("?"))]},
    "cannot be decoded": {
        "message_list": [said("user", {"type": "image", "image": "broken.png"}), said("assistant", text("It is 7."))]
    },
    "role is 'tool'": {"message_list": [said("tool", text("?"))]},
    "does not end with the assistant": {"message_list": OPENING},
    "list of messages": {"message_list": 3},
    "nothing is downloaded": {"message_list": [said("user", {"type": "image", "image": "https://x/y.png"})]},
    "a row of another kind": {"question": "?", "answer": "1"},
    "a row is a mapping": 7,
}


def test_what_cannot_be_read_is_reported(folder):
    report, drafts = imported(folder, [{"message_list": conversation()}, *BROKEN.values()])
    assert len(drafts) == report["written"] == 1 and report["rows"] == 1 + len(BROKEN)
    for number, (problem, found) in enumerate(zip(BROKEN, report["unreadable"], strict=True), start=2):
        assert problem in found["problem"] and found["place"].endswith(f"rows.json, row {number}")
    with pytest.raises(ValueError, match="none of 1 rows can be read; the first: .*row 1: the conversation does not"):
        import_tables([write(folder / "bad.json", [{"message_list": OPENING}])], folder / "bad")


def test_rows_of_other_types_are_reported(folder):
    good = {"message_list": conversation()}
    bad = [{"question": 7}, {"type": 7}, {"operations": "[1]"}, {"operations": "7"}, {"message_list": "[" * 100_000}]
    report = import_tables([write(folder / "t.json", [good, *(good | change for change in bad)])], folder / "t")
    assert report["written"] == 1 and [row["place"][-1] for row in report["unreadable"]] == list("23456")


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_files_that_are_no_tables(folder):
    (folder / "half.jsonl").write_bytes(b'{"question": "?", "answer": "1"}\n{"question"\n"\xff"\n' + b"[" * 100_000)
    report = import_tables([folder / "half.jsonl"], folder / "half")
    assert report["written"] == 1 and report["rows"] == 4
    assert all("not JSON" in row["problem"] for row in report["unreadable"])
    (folder / "x.parquet").write_bytes(b"not parquet")
    for name, rows, problem in (
        ("x.txt", [], "rows are read from"),
        ("x.json", {}, "not a list"),
        ("y.json", [], "there are no rows in it"),
    ):
        with pytest.raises(ValueError, match=problem):
            import_tables([write(folder / name, rows)], folder / "out")
    with pytest.raises(ValueError, match="x.parquet is not a parquet file"):
        import_tables([folder / "x.parquet"], folder / "out")


def same(draft, other) -> None:
    assert (draft.query_id, draft.question, draft.reference, draft.kind) == (
        other.query_id, other.question, other.reference, other.kind
    )  # fmt: skip
    assert draft.operations == other.operations and draft.attributes == other.attributes
    assert draft.messages == other.messages


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_exported_trajectories_come_back(suffix, registry, processor, tmp_path):
    drafts = list(map(lessons.warm_start(registry, processor), PixelSearch(8, "sft")))
    write_records(tmp_path / "data", "trajectory", drafts)
    assert export_table(tmp_path / "data", tmp_path / f"table{suffix}") == 8
    report = import_tables([tmp_path / f"table{suffix}"], tmp_path / "again")
    assert report["written"] == 8
    for draft, other in zip(RecordSource(tmp_path / "data"), RecordSource(tmp_path / "again"), strict=True):
        same(draft, other)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_exported_queries_come_back(suffix, folder):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), "red").save(buffer, "PNG")
    frames = [(folder / name).read_bytes() for name in ("1.jpg", "2.jpg")]
    queries = [
        {"id": "a", "question": "?", "answer": ["1", "one"], "images": [buffer.getvalue(), buffer.getvalue()]},
        {"id": "b", "question": "?", "answer": "2", "video": frames, "fps": 4.0},
        {"id": "c", "question": "?", "answer": "3", "source": "somewhere"},
    ]
    write_records(folder / "data", "query", queries)
    export_table(folder / "data", folder / f"table{suffix}")
    assert len(list((folder / "table_media").iterdir())) == 3  # each once
    import_tables([folder / f"table{suffix}"], folder / "again")
    assert list(RecordSource(folder / "again")) == queries


def test_the_parquet_is_what_others_read(folder):
    imported(folder, [{"message_list": conversation(SMALL)}])
    export_table(folder / "out", folder / "table.parquet")
    [row] = pyarrow.parquet.read_table(folder / "table.parquet").to_pylist()
    assert row["answer"] == ["7"] and [m["role"] for m in row["message_list"]][-1] == "assistant"
    item = row["message_list"][1]["content"][0]
    assert Image.open(folder / item["image"]).size == (80, 60)
    assert [i["train"] for i in row["message_list"][2]["content"]] == [True]


def test_the_commands(folder, capsys):
    rows = [{"message_list": conversation(SMALL)}, BROKEN["no such file"]]
    table = str(write(folder / "rows.json", rows))
    assert cli.main(["import-data", table, "--out", str(folder / "data")]) == 0
    out = capsys.readouterr().out
    assert "gone.png: no such file" in out and "1 of 2 rows, 1 could not be read" in out
    assert cli.main(["export-data", str(folder / "data"), "--out", str(folder / "t.jsonl")]) == 0
    assert "1 rows" in capsys.readouterr().out
    assert cli.main(["export-data", str(folder / "data"), "--out", str(folder / "t.csv")]) == 2
    assert "rows are written to" in capsys.readouterr().err
