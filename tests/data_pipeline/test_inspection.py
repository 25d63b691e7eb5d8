"""The figures are those of the records, and the mask is seen."""

import collections
import dataclasses
import io
import json
import re

import pytest
import rich.console
from PIL import Image

from data_pipeline import lessons
from data_pipeline.inspection.loss_labels import LossLabel, labeled_items
from data_pipeline.inspection.page import inspection_page
from data_pipeline.inspection.terminal import show_trajectory
from data_pipeline.records import read_description, write_records
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.commands import cli


@pytest.fixture(scope="module")
def drafts(registry, processor):
    return list(map(lessons.warm_start(registry, processor), PixelSearch(24, "sft")))


@pytest.fixture
def dataset(drafts, tmp_path):
    write_records(tmp_path / "data", "trajectory", drafts, shard_size=10)
    return tmp_path / "data"


def inspect(capsys, *argv):
    status = cli.main(["inspect", *map(str, argv)])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


def test_no_line_of_the_figures_is_broken(dataset, capsys):
    lines = inspect(capsys, dataset, "--samples", 0).splitlines()
    assert ["digest", read_description(dataset)["digest"]] in [line.split() for line in lines]


def test_figures_of_trajectories(drafts, dataset, processor, world_directory, capsys):
    figures = json.loads(inspect(capsys, dataset, "--json", "--model", world_directory))
    described = read_description(dataset)
    assert {name: figures[name] for name in ("kind", "schema", "digest", "count")} == {
        name: described[name] for name in ("kind", "schema", "digest", "count")
    }
    assert figures["shards"] == 3 and figures["bytes"] > 24 * 1000 and figures["unreadable"] == []
    assert figures["types"] == collections.Counter(draft.kind for draft in drafts)
    operations = [len(draft.operations) for draft in drafts]
    assert figures["operations"] == {"by_name": {"crop_image_normalized": sum(operations)}, "failed": 0}
    assert figures["calls"] == {str(n): operations.count(n) for n in sorted(set(operations))}
    masked = [
        sum(
            not item["train"]
            for message in draft.messages[2:]
            if message["role"] == "assistant"
            for item in message["content"]
        )
        for draft in drafts
    ]
    assert figures["masked"] == sum(masked) > 0 and figures["masked_trajectories"] == sum(map(bool, masked))
    assert figures["images"]["image"]["count"] == 24 and figures["images"]["crop"]["count"] == sum(operations)
    assert figures["images"]["image"]["width"] == {"min": 448, "median": 448.0, "mean": 448.0, "max": 448}
    tokens = [processor.render(draft.messages) for draft in drafts]
    assert figures["lengths"]["tokens"]["max"] == max(len(rendered.tokens) for rendered in tokens)
    assert figures["lengths"]["trained_tokens"]["min"] == min(rendered.train.sum() for rendered in tokens)
    assert figures["lengths"]["turns"]["max"] == 1 + max(operations)


def test_figures_of_queries(tmp_path, capsys):
    queries = [
        {"id": "a", "question": "?", "answer": ["1", "one"], "images": [Image.new("RGB", (30, 20))]},
        {"id": "b", "question": "?", "answer": "2", "video": [Image.new("RGB", (50, 40))] * 2},
        {"id": "c", "question": "?", "answer": "3", "images": [str(tmp_path / "gone.png")]},
    ]
    write_records(tmp_path / "data", "query", queries)
    figures = json.loads(inspect(capsys, tmp_path / "data", "--json"))
    assert (figures["kind"], figures["count"], figures["several_answers"], figures["videos"]) == ("query", 3, 1, 1)
    assert figures["images"]["video frame"]["count"] == 2 and figures["images"]["image"]["height"]["max"] == 20
    [problem] = figures["unreadable"]
    assert "record 2" in problem and "gone.png" in problem
    assert "gone.png" in "".join(inspect(capsys, tmp_path / "data").split())


def test_the_terminal_shows_the_mask_in_colors(drafts):
    draft = next(draft for draft in drafts if any(not i["train"] for i in draft.messages[2]["content"]))
    output = io.StringIO()
    show_trajectory(
        rich.console.Console(file=output, force_terminal=True, color_system="standard", width=10_000), draft
    )
    colored = {
        color: "".join(re.findall(rf"\x1b\[{code}m(.*?)\x1b\[0m", output.getvalue(), re.DOTALL))
        for color, code in {"trained": 32, "masked": 31}.items()
    }
    for label in (LossLabel.TRAINED, LossLabel.MASKED):
        words = "".join(s.text for m in draft.messages for s in labeled_items(m) if s.label == label)
        assert "".join(colored[label].split()) == "".join(words.split()) != ""


def test_a_file_shows_the_mask_in_marks(dataset, drafts, capsys):
    draft = next(draft for draft in drafts if any(not i["train"] for i in draft.messages[2]["content"]))
    output = io.StringIO()
    show_trajectory(rich.console.Console(file=output, width=10_000), draft)
    for label, before, after in ((LossLabel.TRAINED, "[+", "+]"), (LossLabel.MASKED, "[-", "-]")):
        words = [s.text for m in draft.messages for s in labeled_items(m) if s.label == label]
        assert words and all(f"{before}{text}{after}" in output.getvalue() for text in words)
        assert output.getvalue().count(before) >= len(words)
    out = inspect(capsys, dataset)
    assert "[+trained+]  [-masked: the assistant's, without loss-]  context\n" in out


def test_the_page_shows_the_mask(dataset, tmp_path, capsys):
    assert "page: " in inspect(capsys, dataset, "--html", tmp_path / "page.html", "--samples", 24)
    page = (tmp_path / "page.html").read_text()
    figures = json.loads(inspect(capsys, dataset, "--json"))
    calls, texts = '<span class="masked" title="carries no loss"><b>', '<p class="text masked" title="carries no loss">'
    assert page.count(calls) == figures["masked"] > 0
    assert page.count(texts) == figures["masked"] + page.count('class="turn observation')
    assert page.count("data:image/") == sum(kind["count"] for kind in figures["images"].values())
    assert figures["digest"] in page and "<script" not in page


def test_tokens_that_a_run_has_stored_are_shaded(drafts, world_directory):
    logged = {"ids": [1, 2, 3], "source": [[0, 1], [1, 2]], "temperatures": [1.0, 1.0]}
    logged |= {"logprobs": [-2.0, -8.0], "trainer_logprobs": [-2.0, -8.0]}
    good, odd = (
        dataclasses.replace(drafts[0], attributes={"tokens": {**logged, "ids": ids}}) for ids in ([1, 2, 3], [10**9])
    )
    figures = {"kind": "trajectory", "path": "x"}
    page = inspection_page(figures, [good, odd], world_directory)
    assert page.count("<article") == 2 and page.count('class="above" style="--share:') == 2
    assert "log-probabilities" not in inspection_page(figures, [good, odd])


def test_a_hostile_record_is_only_shown(tmp_path, capsys):
    from data_pipeline.draft import Draft

    evil = "<script>alert(1)</script> \x1b[2J [bold]"
    content = [{"type": "text", "text": evil}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    write_records(tmp_path / "data", "trajectory", [Draft(evil, evil, evil, evil, messages)])
    out = inspect(capsys, tmp_path / "data", "--html", tmp_path / "page.html")
    assert "\x1b[2J" not in out and "[bold]" in out
    assert "<script" not in (tmp_path / "page.html").read_text()


def test_an_image_of_too_many_pixels_is_counted(tmp_path, capsys):
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    query = {"id": "a", "question": "?", "answer": "1", "images": [buffer.getvalue()]}
    write_records(tmp_path / "data", "query", [query])
    [problem] = json.loads(inspect(capsys, tmp_path / "data", "--json"))["unreadable"]
    assert "record 0: an image cannot be read" in problem


def test_what_is_no_image_and_no_data_set_is_named(tmp_path, capsys):
    (tmp_path / "notes.jpg").write_text("no image")
    table = tmp_path / "queries.jsonl"
    table.write_text(json.dumps({"image": "notes.jpg", "question": "?", "answer": "1"}))
    [problem] = json.loads(inspect(capsys, table, "--json"))["unreadable"]
    assert f"{tmp_path}/notes.jpg: not an image in a known format (JPEG, " in problem
    (tmp_path / "queries.tsv").write_text("image\tquestion")
    assert cli.main(["inspect", str(tmp_path / "queries.tsv")]) == 2
    assert "queries.tsv is neither the folder of a data set nor a table (.csv, " in capsys.readouterr().err


def test_a_broken_record_is_counted(dataset, capsys):
    path = dataset / "trajectory-train-00001.array_record"
    content = bytearray(path.read_bytes())
    place = content.find(b"\x89PNG")
    content[place + 100 : place + 164] = bytes(64)
    path.write_bytes(content)
    figures = json.loads(inspect(capsys, dataset, "--json"))
    assert 1 <= len(figures["unreadable"]) < 10 and sum(figures["types"].values()) == 24 - len(figures["unreadable"])


def test_mistakes_are_one_message(tmp_path, dataset, capsys):
    for argv, problem in ((("nowhere",), "no data set was completed"), ((dataset, "--samples", -1), "--samples is -1")):
        assert cli.main(["inspect", *map(str, argv)]) == 2
        assert problem in capsys.readouterr().err
