"""What `pixel-reasoner evaluate --on` prints and writes, with policies that answer by a script."""

import json

import pytest

from pixel_reasoner_jax.commands import cli, evaluate_benchmarks
from pixel_reasoner_jax.evaluation.protocol import OwnSettings
from pixel_reasoner_jax.evaluation.records import read_records, read_results
from tests.evaluation.forms import write_image, write_json
from tests.evaluation.scripted import ScriptedPolicy
from tests.evaluation.test_benchmark_run import first, number, write_tallyqa


class ScriptedModel:
    """Stands for `LocalModel`; `answer` is what its policies answer."""

    answer = staticmethod(lambda query, sample: first(12)(query, sample) if query["question"][0] == "q" else "1")
    description, own = {"name": "scripted", "hash": "1", "dtype": "float32"}, OwnSettings()
    made: list = []

    def __init__(self, *arguments):
        self.made.append(arguments)

    def policy(self, protocol, mode):
        return ScriptedPolicy(self.answer)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(evaluate_benchmarks, "LocalModel", ScriptedModel)
    return ScriptedModel


def evaluated(capsys, tmp_path, *given, out="out", status=0):
    assert cli.main(["evaluate", "--model", "some/model", "--out", str(tmp_path / out), *map(str, given)]) == status
    return capsys.readouterr()


def test_the_command(tmp_path, capsys, model):
    data = write_tallyqa(tmp_path / "data", broken=(2,))
    out, _ = evaluated(capsys, tmp_path, "--on", f"tallyqa:{data}", "--on", "pixel_search:heldout:3", "--mesh.fsdp", 2)
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["Score", "Items"] and lines[2].split()[:2] == ["tallyqa", "0.46"]
    assert any(line.startswith("  complex") for line in lines) and any(
        line.startswith("pixel_search") for line in lines
    )
    assert "tallyqa: scored by the rule count" in out and "protocol paper" in out and "protocol model" in out
    assert "tallyqa: by other rules: vlmevalkit-count 0.458" in out
    assert "tallyqa: TallyQA: 24 rows" in out
    assert "tallyqa: 1 of 24 items could not be read, and counts as wrong:\ntallyqa: 1-2 (" in out
    figures = json.loads(lines[-1])
    assert figures["tallyqa"]["score"] == 11 / 24 and figures["tallyqa"]["unreadable"] == 1
    assert figures["pixel_search"]["count"] == 3
    results = read_results(tmp_path / "out")
    assert results["benchmarks"]["pixel_search"]["protocol"]["name"] == "model"
    assert model.made[-1] == ("some/model", "auto", {"data": -1, "fsdp": 2, "tensor": 1}, 64)


def test_flags_change_the_protocol(tmp_path, capsys, model):
    data = write_tallyqa(tmp_path / "data")
    flags = ["--mode", "both", "--samples", 2, "--temperature", 0.5, "--seed", 7, "--max-length", 999]
    parts = ["--set", "budgets.image=256,16384", "--set", "prompt=vlmevalkit", "--protocol", "paper"]
    out, _ = evaluated(capsys, tmp_path, "--on", f"tallyqa:{data}", *flags, *parts)
    assert "tallyqa, pixel" in out and "tallyqa, text" in out and "tallyqa, pixel less text" in out
    assert "pass@2" in out and "maj@2" in out
    protocol = read_results(tmp_path / "out")["benchmarks"]["tallyqa"]["protocol"]
    assert (protocol["mode"], protocol["samples"], protocol["seed"]) == ("both", 2, 7)
    assert protocol["sampling"]["temperature"] == 0.5 and protocol["limits"]["max_length"] == 999
    assert protocol["budgets"]["image"] == [256, 16384] and "single number" in protocol["prompt"]["template"]


def test_a_submission(tmp_path, capsys, model, monkeypatch):
    rows = [{"questionId": 70 + n, "question": f"q{n}", "image_local_name": f"{n}.png"} for n in range(3)]
    for n in range(2):
        write_image(tmp_path / "data" / f"{n}.png", n)
    write_json(tmp_path / "data" / "infographicsVQA_test_v1.0.json", {"data": rows})
    monkeypatch.setattr(model, "answer", staticmethod(lambda query, sample: f"\\boxed{{about {number(query)}}}"))
    on = ["--on", f"infovqa:{tmp_path / 'data'}", "--submission", tmp_path / "answers.json"]
    out, _ = evaluated(capsys, tmp_path, *on)
    assert json.loads((tmp_path / "answers.json").read_text()) == [
        {"questionId": 70, "answer": "about 0"},
        {"questionId": 71, "answer": "about 1"},
        {"questionId": 72, "answer": ""},
    ]
    assert "2 items have no score: the answer" in out and "1 of 3 items could not be read" in out
    assert f"submission: {tmp_path / 'answers.json'}" in out


def test_the_metric_of_one_s_own_data(tmp_path, capsys, model, monkeypatch):
    from data_pipeline.records import write_records

    query = {"id": "a", "question": "q0", "answer": "Red", "images": [str(write_image(tmp_path / "a.png"))]}
    write_records(tmp_path / "set", "query", [query])
    monkeypatch.setattr(model, "answer", staticmethod(lambda query, sample: "\\boxed{red!}"))
    evaluated(capsys, tmp_path, "--on", f"data:{tmp_path / 'set'}", "--metric", "exact")
    (record,) = read_records(tmp_path / "out")
    assert record.score == 1.0 and list(record.scores) == ["exact", "choice"]
    assert read_results(tmp_path / "out")["benchmarks"]["data"]["scorer"] == "exact"


def test_compare_shows_the_trajectories_of_what_flipped(tmp_path, capsys, model, monkeypatch, outline):
    data = write_tallyqa(tmp_path / "data")
    evaluated(capsys, tmp_path, "--on", f"tallyqa:{data}", out="a")
    monkeypatch.setattr(model, "answer", staticmethod(first(13)))
    evaluated(capsys, tmp_path, "--on", f"tallyqa:{data}", out="b")
    page = tmp_path / "page.html"
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--html", str(page)]) == 0
    shown = outline(page.read_text())
    assert shown.tags.count("article") == 3  # the item, and both trajectories
    assert shown.tags.count("img") == 4  # in each the image and its crop
    assert "Let me zoom in." in page.read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--on", "vstarr:x"], "--on vstarr:x: it is NAME:PATH, with a name of vstar, "),
        (["--on", "vstar"], "--on vstar: it is NAME:PATH"),
        (["--on", "vstar:nowhere"], "nowhere: no such file or folder"),
        (["--on", "json:loads:x"], "is no class of a benchmark"),
        (["--on", "pixel_search", "--on", "pixel_search:heldout"], "asked for twice"),
        (["--on", "pixel_search", "--set", "samples"], "--set samples: it is PART=VALUE"),
        (["--on", "pixel_search", "--set", "budget=1"], "no part 'budget'"),
        (["--on", "pixel_search", "--samples", "2"], "would all be alike"),
        (["--on", "pixel_search", "--protocol", "x"], "unknown protocol 'x'"),
        (["--on", "pixel_search", "--metric", "exact"], "--metric is for data:PATH"),
        (["--on", "pixel_search", "--submission", "x.json"], "--submission needs one benchmark"),
        (["--on", "pixel_search", "--count", "9"], "--count is of the quickstart's world"),
        (["--on", "pixel_search", "--text-only"], "--text-only is of the quickstart's world"),
        (["--on", "pixel_search", "--slots", "0"], "--slots must be at least 1"),
        (["--protocol", "paper"], "--protocol is for benchmarks: name one with --on"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, model, given, message):
    _, err = evaluated(capsys, tmp_path, *given, status=2)
    assert message in err and len(err.splitlines()) == 1


def test_out_is_needed_and_a_folder(tmp_path, capsys, model):
    assert cli.main(["evaluate", "--model", "m", "--on", "pixel_search"]) == 2
    assert "--on needs --out DIR" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    _, err = evaluated(capsys, tmp_path, "--on", "pixel_search", out="file", status=2)
    assert "is a file: with --on it is a folder" in err
