"""What a view holds of evaluations, runs, data sets and answers, and what is left out of them."""

import argparse
import errno
import json
import os
import pathlib

import pytest

from data_pipeline.records import RecordError, RecordSource, RecordWriter
from pixel_reasoner_jax.commands import cli, options
from pixel_reasoner_jax.commands.generate_table import response_key
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks import open_benchmark
from pixel_reasoner_jax.evaluation.records import ScoredRecord, ScoredRecordWriter
from pixel_reasoner_jax.evaluation.trajectories import TrajectoryWriter
from pixel_reasoner_jax.report.text import printable
from pixel_reasoner_jax.viewer import build as building
from pixel_reasoner_jax.viewer.lines import MAX_LINE, Skipped, lines_of
from pixel_reasoner_jax.viewer.pictures import Pictures, Stored
from pixel_reasoner_jax.viewer.sources import find_sources
from tests.evaluation.scripted import picture, trajectory
from tests.trajectories import EVIL
from tests.viewer.conftest import details, read_script, sample, view_of, write_evaluation, write_run


def test_an_evaluation(tmp_path, evaluations):
    built, index = view_of(tmp_path / "view", evaluations[0])
    rows = index["rows"]
    assert built.counts == [120] and built.skipped[0].count == 0
    assert [row["operations"] for row in rows[:3]] == [1, 1, 0] and rows[1]["failed"] == 1
    assert rows[0]["score"] == 1 and rows[1]["score"] == 0 and rows[4]["categories"] == ["kind: even"]
    assert rows[0]["pixels"] == 80 * 60 and rows[0]["tokens"] == 4
    shown = details(tmp_path / "view", rows[0])
    assert shown["boxes"] == [{"number": 1, "picture": 0, "box": [2, 1, 78, 59]}]
    crop = shown["messages"][3]["items"][0]["images"][0]
    assert crop == {"file": crop["file"], "width": 80, "height": 60, "box": [2, 1, 78, 59]}
    assert [turn["logprobs"] for turn in shown["turns"]] == [[-2.5, -3.5], [-5.5, -6.5]]
    assert len(list((tmp_path / "view" / "images").iterdir())) == 3  # each once
    (figures,) = index["runs"][0]["figures"]
    assert figures["score"] == pytest.approx(51 / 120) and figures["interval"][0] < 51 / 120 < figures["interval"][1]
    assert [one["count"] for one in index["charts"]["resolution"][0]] == [40, 40, 39]


def test_finished_results_are_those_of_the_evaluation(tmp_path):
    directory = write_evaluation(tmp_path / "a", set(), queries=4)
    part = {"score": 0.25, "interval": [0.1, 0.5], "count": 4}
    whole = {**part, "rapr": 0.5, "responses": 4, "operations": 1.5, "failure_rate": None, "categories": {"odd": part}}
    (directory / "results.json").write_text(json.dumps({"benchmarks": {"vstar": whole, "broken": 3}}))
    first, second = view_of(tmp_path / "view", directory)[1]["runs"][0]["figures"]
    assert (first["score"], first["interval"], first["rapr"]) == (0.25, [0.1, 0.5], 0.5)
    assert first["rapr_interval"] == pytest.approx([0.150, 0.850], abs=1e-3)
    assert (second["name"], second["depth"], second["score"]) == ("odd", 1, 0.25)


def test_damaged_records_are_counted(tmp_path):
    directory = write_evaluation(tmp_path / "a", set(), queries=6)
    lines = (directory / "records.jsonl").read_bytes().split(b"\n")
    lines[1], lines[2] = b"\xff\xfe", b"[" * 10_000
    (directory / "records.jsonl").write_bytes(b"\n".join([*lines[:-1], b'{"benchmark": "vs']))
    stored = (directory / "trajectories.jsonl").read_bytes().split(b"\n")
    stored[4] = stored[4][:200]
    (directory / "trajectories.jsonl").write_bytes(b"\n".join(stored))
    (directory / "results.json").write_text("[" * 10_000)
    built, index = view_of(tmp_path / "view", directory)
    assert built.counts == [4]
    assert {(one["reason"], one["count"]) for one in built.skipped[0].table()} == {
        ("line that is no scored record", 2),
        ("half-written last line", 1),
    }
    row = next(row for row in index["rows"] if row["id"] == "q4")
    assert "\\boxed{4}" in json.dumps(details(tmp_path / "view", row)["messages"]).replace("\\\\", "\\")


ODD = [None, 3, -1, 1e308, "x", "\ud800", [], [[]], [None], {}, {"__proto__": 1}, [{"role": "assistant"}], "eJw=", True]


def test_records_of_any_form_are_shown_or_counted(tmp_path):
    directory = write_evaluation(tmp_path / "a", set(), queries=1)
    record = json.loads((directory / "records.jsonl").read_text())
    stored = json.loads((directory / "trajectories.jsonl").read_text())
    call, image = stored["operations"][0], stored["messages"][1]["content"][0]
    forms = [
        {**stored, name: odd} for name in stored if name not in ("benchmark", "mode", "id", "sample") for odd in ODD
    ]
    forms += [{**stored, "operations": [{**call, name: odd}]} for name in call for odd in ODD]
    images = [{**image, "image": odd} for odd in ODD] + [{**image, "image": {**image["image"], "box": x}} for x in ODD]
    forms += [{**stored, "messages": [{"role": "user", "content": [image]}]} for image in images]
    with (directory / "records.jsonl").open("w") as records, (directory / "trajectories.jsonl").open("w") as lines:
        for number, form in enumerate(forms):
            records.write(json.dumps({**record, "id": str(number)}) + "\n")
            lines.write(json.dumps({**form, "id": str(number)}) + "\n")
    built, index = view_of(tmp_path / "view", directory)
    assert built.counts[0] + built.skipped[0].count == len(forms) and built.counts[0] > len(forms) / 2
    assert len(index["rows"]) == built.counts[0]


def test_a_full_disk_is_an_error(tmp_path, evaluations, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        view_of(tmp_path / "view", evaluations[0])


def test_hostile_texts_are_bounded(tmp_path, evaluations):
    _, index = view_of(tmp_path / "view", evaluations[0])
    row = index["rows"][3]
    assert "\x00" not in row["id"] and "\u202e" not in json.dumps(row) and len(row["question"]) == 201
    shown = details(tmp_path / "view", row)
    assert len(shown["question"]) < 21_000 and "characters more" in shown["question"]
    for path in (tmp_path / "view" / "data").iterdir():
        assert path.read_bytes().isascii() and path.name in ("index.js", "00000.js", "00001.js", "00002.js")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "x",
        {"file": "../../../etc/passwd"},
        {"file": 3},
        {"file": "0123456789abcdef.svg"},
        {"file": "0123456789abcdef.png"},  # a pipe
        {"file": "aaaaaaaaaaaaaaaa.png", "box": [0, 0, 999, 2]},
        {"file": "bbbbbbbbbbbbbbbb.png"},  # no image
        {"file": "cccccccccccccccc.png"},  # a link
        {"of": None, "size": [1, 1], "box": [0, 0, 1, 1]},
        {"of": {"file": "aaaaaaaaaaaaaaaa.png"}, "size": [0, 1], "box": [0, 0, 1, 1]},
    ],
)
def test_images_that_are_not_shown(tmp_path, value):
    folder = tmp_path / "images"
    folder.mkdir()
    os.mkfifo(folder / "0123456789abcdef.png")
    picture(5).save(folder / "aaaaaaaaaaaaaaaa.png")
    (folder / "bbbbbbbbbbbbbbbb.png").write_text(EVIL)
    picture(5).save(tmp_path / "private.png")
    (folder / "cccccccccccccccc.png").symlink_to(tmp_path / "private.png")
    assert Stored(folder, Pictures(tmp_path / "view")).get(value) is None


def test_parts_of_resized_images(tmp_path):
    """The released code cuts crops out of the resized image: what is shown is the same part of the file."""
    (tmp_path / "images").mkdir()
    picture(5, (80, 60)).save(tmp_path / "images" / "aaaaaaaaaaaaaaaa.png")
    stored = Stored(tmp_path / "images", Pictures(tmp_path / "view"))
    value = {"of": {"file": "aaaaaaaaaaaaaaaa.png", "box": [40, 0, 80, 60]}, "size": [20, 30], "box": [10, 0, 20, 15]}
    assert stored.get(value)["box"] == [60, 0, 80, 30]


def test_images_of_other_kinds(tmp_path):
    pictures = Pictures(tmp_path)
    picture(9).save(tmp_path / "a.tiff")
    turned = picture(9).getexif()
    turned[0x0112] = 6
    picture(9).save(tmp_path / "turned.jpg", exif=turned)
    assert pictures.add(tmp_path / "a.tiff")["file"].endswith(".png")
    shown = pictures.add((tmp_path / "turned.jpg").read_bytes())
    assert (shown["width"], shown["height"]) == (60, 80)
    assert pictures.add(b"") is None and pictures.add(b"no image") is None and pictures.add(object()) is None


def test_a_run(tmp_path):
    workdir = write_run(tmp_path / "run")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('no\n{"step": "x"}\n{"step": 6')
    (workdir / "samples" / "00003").mkdir()  # is being written
    built, index = view_of(tmp_path / "view", workdir)
    (run,) = index["runs"]
    assert run["floor"] == 0.3 and run["curves"]["rapr"][1] == [2, 0.5] and "loss" not in run["curves"]
    (alarm,) = run["alarms"]
    assert (alarm["name"], alarm["first"], alarm["last"], alarm["now"]) == ("rapr", 4, 5, True)
    assert sum(one["count"] for one in run["skipped"]) == 3
    row = index["rows"][0]
    assert (row["group"], row["score"], row["reward"], row["advantage"]) == ("episode 1", 1, 0.5, -0.25)
    assert row["object"] == pytest.approx(400 / 8000)
    shown = details(tmp_path / "view", row)
    assert shown["terms"] == {"bonus": 0.05, "correct": 1} and shown["object"] == [10, 10, 30, 30]
    assert shown["turns"] == [{"logprobs": [-0.5, -1.5], "trainer": [-0.25, -1.5], "ids": [7, 8]}]
    built, index = view_of(tmp_path / "view", workdir, episodes=1)
    assert {row["group"] for row in index["rows"]} == {"episode 2"}


def test_accuracy_by_the_size_of_the_object(tmp_path):
    """Of a benchmark that knows where its objects are, whether images were kept or not; and boxes of either unit."""
    benchmark = open_benchmark("pixel_search", "heldout:24")
    with ScoredRecordWriter(tmp_path / "a") as records, TrajectoryWriter(tmp_path / "a") as trajectories:
        for number, item in enumerate(benchmark):
            given = trajectory({"id": item.id, "question": item.question, "images": [*item.images]}, 0, "7")
            box = (0, 0, 0.5, 0.5) if number % 2 else item.object_box
            record = ScoredRecord.of(given, "pixel_search", float(number % 2), object_box=box, images=["448x448"])
            records.write(record)
            if number:
                trajectories.write(record.key, given, item.images)
    _, index = view_of(tmp_path / "view", tmp_path / "a")
    assert index["rows"][0]["object"] == pytest.approx((100 / 448) ** 2) == index["rows"][2]["object"]
    bins = index["charts"]["object"][0]
    assert [(one["count"], one["score"]) for one in bins] == [(12, 0), (12, 1)]
    left, top, right, bottom = details(tmp_path / "view", index["rows"][2])["object"]
    assert (right - left, bottom - top) == (100, 100) and details(tmp_path / "view", index["rows"][0])["object"] is None


def test_a_run_that_was_evaluated(tmp_path):
    workdir = write_run(tmp_path / "run", episodes=1)
    write_evaluation(workdir / "evaluations" / "00004", {0, 1}, queries=3)
    write_evaluation(workdir / "evaluations" / "00002", {1}, queries=3)
    (workdir / "evaluations" / "00009").mkdir()  # is being written
    built, index = view_of(tmp_path / "view", workdir)
    groups = [row["group"] for row in index["rows"]]
    assert groups == ["episode 1"] * 2 + ["evaluation after 2: vstar"] * 3 + ["evaluation after 4: vstar"] * 3
    figures = {line["name"]: (line["count"], line["score"]) for line in index["runs"][0]["figures"]}
    assert figures == {
        "all shown": (2, 1),
        "episode 1": (2, 1),
        "evaluation after 2: vstar": (3, pytest.approx(1 / 3)),
        "evaluation after 4: vstar": (3, pytest.approx(2 / 3)),
    }
    assert details(tmp_path / "view", index["rows"][-3])["messages"][1]["items"][0]["images"][0]["width"] == 80
    _, index = view_of(tmp_path / "view", workdir, episodes=1)
    assert "evaluation after 2: vstar" not in {row["group"] for row in index["rows"]}


def test_samples_that_do_not_fit_together_are_counted(tmp_path):
    draft = sample(1, 0)
    draft.attributes["tokens"]["source"] = [[1, 10**9]]
    with RecordWriter(tmp_path / "data", "trajectory") as writer:
        writer.write(draft)
        writer.write(sample(1, 1))
    built, _ = view_of(tmp_path / "view", tmp_path / "data")
    assert built.counts == [1] and built.skipped[0].count == 1


def test_answers(tmp_path):
    answered = {"row": 0, "id": "x", "sample": 0, "question": "?", "answer": "7", "response": "\\boxed{7}"}
    operations = [{"succeeded": True}, {"succeeded": False}]
    lines = [{**answered, "operations": operations, "ended": "answer", "tokens": 4}, {"row": 1, "error": "gone"}, {}, 3]
    (tmp_path / "out").mkdir()
    given = trajectory({"id": "x", "question": "?", "images": [picture(3)]}, 0, "\\boxed{7}")
    with TrajectoryWriter(tmp_path / "out") as writer:
        writer.write(response_key(0, 0), given)
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {**answered, "operations": 5}])
    (tmp_path / "out" / "responses.jsonl").write_text(text)
    built, index = view_of(tmp_path / "view", tmp_path / "out")
    assert [(row["answer"], row["operations"], row["failed"], row["group"]) for row in index["rows"]] == [
        ("7", 2, 1, ""),
        (None, 0, 0, "unreadable"),
        (None, 0, 0, ""),
    ]
    assert built.skipped[0].count == 2
    assert details(tmp_path / "view", index["rows"][0])["messages"][1]["items"][0]["images"][0]["width"] == 80
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": EVIL}]}]
    call = {"turn": 0, "name": "zoom_in", "arguments": {"x": 1}, "succeeded": False, "error": EVIL, "sizes": [[2, 3]]}
    one = {"query_id": "q", "sample": 0, "question": "?", "messages": messages, "response": "", "operations": [call]}
    (tmp_path / "one.json").write_text(json.dumps({"trajectories": [one, {"messages": 3, "operations": [4]}]}))
    built, index = view_of(tmp_path / "view", tmp_path / "one.json")
    assert details(tmp_path / "view", index["rows"][0])["messages"][0]["items"] == [
        {"text": "[image]"},
        {"text": printable(EVIL)},
    ]
    (shown,) = details(tmp_path / "view", index["rows"][0])["operations"]
    assert (shown["name"], shown["arguments"], shown["sizes"]) == ("zoom_in", "x = 1", [[2, 3]])
    assert built.skipped[0].count == 1


@pytest.mark.parametrize("odd", [3, True, "x", {"a": 1}, None])
def test_answers_that_are_no_list(tmp_path, odd):
    (tmp_path / "one.json").write_text(json.dumps({"trajectories": odd}))
    assert view_of(tmp_path / "view", tmp_path / "one.json")[0].counts == [0]


@pytest.mark.parametrize("text", ["", "[", "[{}]", '{"name": 3}', '{"version": "x"}', '{"\\ud800": 1}'])
def test_a_damaged_description_of_samples_is_counted(tmp_path, text):
    workdir = write_run(tmp_path / "run")
    (workdir / "samples" / "00001" / "dataset_info.json").write_text(text)
    built, index = view_of(tmp_path / "view", workdir)
    assert {row["group"] for row in index["rows"]} == {"episode 2"}
    assert [(one["reason"], one["count"]) for one in built.skipped[0].table()] == [("data set that cannot be read", 1)]
    with pytest.raises(RecordError, match="dataset_info.json cannot be read"):
        RecordSource(workdir / "samples" / "00001")


def test_queries(tmp_path):
    with RecordWriter(tmp_path / "data", "query") as writer:
        writer.write({"id": "1", "question": "Which?", "answer": "a", "images": [picture(4)]})
    _, index = view_of(tmp_path / "view", tmp_path / "data")
    assert index["rows"][0]["group"] == "queries" and index["rows"][0]["pixels"] == 4800


def test_a_view_is_written_anew(tmp_path, monkeypatch, evaluations):
    monkeypatch.setattr(building, "CHUNK_ENTRIES", 10)
    view_of(tmp_path / "view", evaluations[0])
    names = {path.name for path in (tmp_path / "view" / "data").iterdir()}
    assert names == {"index.js", *(f"{n:05d}.js" for n in range(12))}
    built, index = view_of(tmp_path / "view", evaluations[1], limit=3)
    assert {path.name for path in (tmp_path / "view" / "data").iterdir()} == {"index.js", "00000.js"}
    assert len(index["rows"]) == 3 and "--limit" in built.skipped[0].table()[0]["reason"]
    assert len(list((tmp_path / "view" / "images").iterdir())) == 2


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, evaluations):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds something else"):
        view_of(tmp_path / "out", evaluations[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_page_of_another_program_is_left_alone(tmp_path, evaluations):
    texts = {"index.html": "<p>mine</p>", "main.js": "mine()", "data/index.js": "mine()", "data/00042.js": "mine()"}
    for name, text in {**texts, "images/deadbeef.png": "mine"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="holds something else"):
        view_of(tmp_path, evaluations[0])
    assert all((tmp_path / name).read_text() == text for name, text in texts.items())
    assert (tmp_path / "images" / "deadbeef.png").exists()


def test_what_an_interrupted_command_left_is_replaced(tmp_path, evaluations, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "source_summary", interrupted)
    with pytest.raises(KeyboardInterrupt):
        view_of(tmp_path / "view", evaluations[0])
    monkeypatch.undo()
    assert view_of(tmp_path / "view", evaluations[0])[0].counts == [120]


def test_names_tell_sources_apart(tmp_path, evaluations):
    for arm in ("x", "y"):
        write_run(tmp_path / arm / "run", episodes=0)
        (tmp_path / arm / "notes").mkdir()
    assert [one.name for one in find_sources([str(tmp_path)])] == ["x/run", "y/run"]
    found = find_sources([str(tmp_path / "x"), str(tmp_path / "y"), str(evaluations[0])])
    assert [(one.name, one.kind) for one in found] == [("x/run", "run"), ("y/run", "run"), ("a", "evaluation")]
    for given, what in ((["x/run", "x/run"], "twice"), (["nowhere"], "no such"), (["x/notes"], "nothing to view")):
        with pytest.raises(UserError, match=what):
            find_sources([str(tmp_path / one) for one in given])


def test_a_run_that_stored_no_trajectories_is_said_to(tmp_path, capsys):
    write_run(tmp_path / "run", episodes=0)
    assert cli.main(["view", str(tmp_path / "run"), "--out", str(tmp_path / "view")]) == 0
    assert (
        "run: run, 0 trajectories (stored by train.log_samples of rl, and by evaluation.on)" in capsys.readouterr().out
    )


def test_long_lines_are_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr("pixel_reasoner_jax.viewer.lines.MAX_LINE", 10)
    (tmp_path / "f").write_bytes(b"x" * 35 + b"\nshort\n\nlast")
    skipped = Skipped()
    assert [(number, line) for number, _, line in lines_of(tmp_path / "f", skipped)] == [(2, b"short")]
    assert skipped.count == 2 and MAX_LINE > 10


def test_the_command(tmp_path, capsys, evaluations):
    with (evaluations[1] / "records.jsonl").open("a") as file:
        file.write(f'"{EVIL}')
    try:
        assert cli.main(["view", *map(str, evaluations), "--out", str(tmp_path / "view")]) == 0
    finally:
        records = (evaluations[1] / "records.jsonl").read_bytes()
        (evaluations[1] / "records.jsonl").write_bytes(records[: records.rindex(b"\n") + 1])
    out, err = capsys.readouterr()
    assert "a: evaluation, 120 trajectories" in out and f"page: {tmp_path / 'view' / 'index.html'}" in out
    assert "warning: b: skipped 1: half-written last line" in err
    page = (tmp_path / "view" / "index.html").read_text()
    assert "unsafe" not in page and "http:" not in page and "default-src 'none'" in page
    assert {path.name for path in (tmp_path / "view").iterdir()} >= {*building.SCRIPTS, building.STYLE, building.ICON}
    assert read_script(tmp_path / "view" / "data" / "index.js")["live"] is False


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "give at least one DIR"),
        (["x"], "give --out"),
        (["x", "--out", "gs://a/b"], "object store"),
        (["--live", "x", "--out", "y"], "give it alone"),
        (["x", "--out", "y", "--limit", "0"], "--limit"),
        (["--live", "."], "nothing to view"),
    ],
)
def test_options_that_do_not_go_together(given, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["view", *given]) == 2
    assert says in capsys.readouterr().err


def test_the_default_of_the_command_is_that_of_the_view():
    parser = argparse.ArgumentParser()
    options.view(parser)
    assert parser.parse_args(["x"]).limit == building.MAX_ENTRIES


def test_the_page_is_packaged():
    setup = (pathlib.Path(__file__).parents[2] / "setup.py").read_text()
    assert '"pixel_reasoner_jax.viewer": ["page/*"]' in setup
    assert all(
        building.page_file(building.__package__, name)
        for name in (building.PAGE, building.STYLE, building.ICON, *building.SCRIPTS)
    )
