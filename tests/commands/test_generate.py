"""`pixel-reasoner generate`: what it prints, what it saves, and what it says when it cannot."""

import argparse
import io
import json
import shutil

import numpy as np
import pytest
import rich.console
from PIL import Image

from pixel_reasoner_jax.commands import generate, generate_table, options, served
from pixel_reasoner_jax.commands.quickstart import make_initial_model
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.evaluation.trajectories import read_trajectories
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.rollout.dialogue import EpisodeEnd, Limits, OperationRun, TurnText
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Source, Trajectory
from tests.processing.avi import write_avi

CROP = OperationRecord(0, "crop_image_normalized", {"bbox_2d": [0.1, 0.9]}, boxes=((0, 0, 50, 50),), sizes=((56, 56),))
FAILED = OperationRecord(1, None, None, error="not JSON [red]\x1b]0;title\x07")


def arguments(*given):
    parser = argparse.ArgumentParser()
    options.generate(parser)
    return parser.parse_args(["--model", "some/model", *given])


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (100, 80), "orange").save(path)
    return str(path)


def trajectory(query, sample=0):
    image = query["images"][0]
    contents = [
        ("user", [{"type": "image", "image": image}, {"type": "text", "text": query["question"]}]),
        ("assistant", [{"type": "text", "text": "zoom"}]),
        ("user", [{"type": "text", "text": "crop"}, {"type": "image", "image": image.crop((0, 0, 50, 50))}]),
        ("assistant", [{"type": "text", "text": "It is \\boxed{orange}"}]),
    ]
    source = np.array([0, 1, 1], np.int8)
    return Trajectory(
        query_id=query["id"],
        question=query["question"],
        reference=query["answer"],
        messages=[{"role": role, "content": content} for role, content in contents],
        tokens=np.zeros(3, np.int32),
        source=source,
        train=source == 1,
        media=[],
        sample=sample,
        operations=[CROP],
        ended=Ended.ANSWER,
    )


class FakePolicy:
    """Emits the events of a rollout whose samples are interleaved."""

    limits = Limits(max_length=192)

    def rollout(self, queries, *, samples, seed, temperature, on_event):
        self.asked = (queries, samples, seed, temperature)
        group = [trajectory(queries[0], sample) for sample in range(samples)]
        for turn in (0, 1):
            for t in group:
                for piece in (f"turn {turn} of ", f"sample {t.sample}"):
                    on_event(TurnText(t.query_id, t.sample, turn, piece))
            for t in group:
                if turn == 0:
                    on_event(OperationRun(t.query_id, t.sample, turn, CROP, []))
                else:
                    on_event(EpisodeEnd(t.query_id, t.sample, t))
        return [group]


@pytest.fixture
def policy(monkeypatch):
    fake = FakePolicy()
    monkeypatch.setattr(served, "load_policy", lambda *_, **__: fake)
    return fake


def test_one_response_is_printed_and_saved(policy, picture, tmp_path, capsys):
    page = tmp_path / "out" / "page.html"
    generate.run(arguments("--image", picture, "--question", "Which <i>colour</i>?", "--html", str(page)))
    assert capsys.readouterr().out.splitlines() == [
        "turn 0 of sample 0",
        "→ crop_image_normalized bbox_2d = [0.1, 0.9]: 56 × 56 px",
        "",
        "turn 1 of sample 0",
        "answer: orange",
        "operations: 1, tokens written: 2",
        "",
        f"page: {page}",
        f"trajectories: {page.with_suffix('.json')}",
    ]
    assert policy.asked[1:] == (1, 0, 0.0)
    [saved] = json.loads(page.with_suffix(".json").read_text())["trajectories"]
    assert saved["operations"][0]["boxes"] == [[0, 0, 50, 50]]
    assert page.read_text().count("<img") == 2 and "&lt;i&gt;" in page.read_text()


def test_several_responses_are_printed_turn_by_turn(policy, picture, tmp_path, capsys):
    out = tmp_path / "out.json"
    generate.run(arguments("--image", picture, "--question", "?", "--samples", "2", "--seed", "3", "--out", str(out)))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("response", "turn"))] == [
        "response 1",
        "turn 0 of sample 0",
        "response 2",
        "turn 0 of sample 1",
        "response 1",
        "turn 1 of sample 0",
        "response 2",
        "turn 1 of sample 1",
    ]
    assert policy.asked[1:] == (2, 3, 1.0)
    assert len(json.loads(out.read_text())["trajectories"]) == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_a_response_cannot_command_the_terminal(terminal):
    stream = io.StringIO()
    printer = generate.Printer(rich.console.Console(file=stream, force_terminal=terminal, highlight=False))
    printer(TurnText("q", 0, 0, "a\x1b[2J\x9b31m\rb [bold]not markup[/bold] [/] \ud800 " + "long " * 60))
    printer(OperationRun("q", 0, 1, FAILED, []))
    shown = stream.getvalue()
    assert "a\ufffd[2J\ufffd31m\ufffdb [bold]not markup[/bold] [/] ? long long" in shown
    assert "✗ unreadable call: not JSON [red]\ufffd]0;title\ufffd" in shown
    assert "\x9b" not in shown and "\x07" not in shown
    assert ("\x1b" in shown) == terminal  # its own colours, and those in a terminal alone
    assert shown.count("long") == 60 and shown.count("\n") == 3  # nothing is wrapped


def test_options_that_make_no_question(picture, tmp_path):
    cases = [
        (("--question", "  ", "--image", picture), ValueError, "--question is empty"),
        (("--question", "?"), ValueError, "either --image or --video; neither was given"),
        (("--question", "?", "--image", picture, "--video", "v.mp4"), ValueError, "both were given"),
        (("--question", "?", "--image", str(tmp_path / "no.png")), MediaError, "no.png: no such file"),
        (("--question", "?", "--video", str(tmp_path / "no.mp4")), FileNotFoundError, "no.mp4: no such video"),
        (("--question", "?", "--image", picture, "--samples", "0"), ValueError, "--samples must be at least 1"),
        (("--question", "?", "--image", picture, "--temperature", "-1"), ValueError, "--temperature"),
        (("--question", "?", "--image", picture, "--max-tokens", "0"), ValueError, "--max-tokens"),
        (("--question", "?", "--image", picture, "--html", "a.json"), ValueError, "cannot both be a.json.*--out"),
        (("--question", "?", "--image", picture, "--out", "a.html"), ValueError, "cannot both be a.html"),
        (("--question", "?", "--image", picture, "--html", "a", "--out", "./a"), ValueError, "cannot both be a:"),
        (("--question", "?", "--image", picture), FileNotFoundError, "some/model: no such model directory"),
    ]
    for given, error, text in cases:
        with pytest.raises(error, match=text):
            generate.run(arguments(*given))


@pytest.mark.parametrize("option", ["--html", "--out"])
def test_an_output_that_cannot_be_written_is_named_before_the_model_is_loaded(picture, tmp_path, option):
    with pytest.raises(ValueError, match=f"{tmp_path} is a directory"):
        generate.run(arguments("--image", picture, "--question", "?", option, str(tmp_path)))


def test_a_video_is_handed_on(tmp_path):
    path = tmp_path / "clip.avi"
    path.write_bytes(b"not read here")
    query = generate.build_query(arguments("--question", "What happens?", "--video", str(path)))
    assert query == {"id": "clip.avi", "question": "What happens?", "answer": "", "video": str(path)}


@pytest.mark.parametrize(
    "given,page,out",
    [
        ((), "runs/generate/picture.html", "runs/generate/picture.json"),
        (("--html", "a.html"), "a.html", "a.json"),
        (("--out", "b.json"), "b.html", "b.json"),
        (("--html", "a.html", "--out", "b/c.json"), "a.html", "b/c.json"),
    ],
)
def test_everything_is_saved_somewhere(policy, picture, tmp_path, monkeypatch, capsys, given, page, out):
    monkeypatch.chdir(tmp_path)
    generate.run(arguments("--image", picture, "--question", "?", *given))
    assert capsys.readouterr().out.splitlines()[-2:] == [f"page: {page}", f"trajectories: {out}"]
    assert (tmp_path / page).read_text().startswith("<!") and json.loads((tmp_path / out).read_text())


def test_pages_of_earlier_questions_stay(policy, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for question in ("Which?", "Where?", "Why?"):
        generate.run(arguments("--image", picture, "--question", question))
    for name, question in (("picture", "Which?"), ("picture-2", "Where?"), ("picture-3", "Why?")):
        assert question in (tmp_path / f"runs/generate/{name}.html").read_text()
        assert (tmp_path / f"runs/generate/{name}.json").exists()


def test_limits_of_training_are_not_those_of_a_question(policy, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate.run(arguments("--image", picture, "--question", "?", "--max-tokens", "9"))
    assert policy.limits == Limits(max_response_tokens=9, max_length=None)


@pytest.fixture(scope="module")
def quickstart_model(tmp_path_factory):
    """What the quickstart starts from: what it writes is noise, but it goes all the way."""
    directory = tmp_path_factory.mktemp("quickstart")
    make_initial_model(load_config("quickstart"), directory)
    return directory


@pytest.mark.parametrize("kind", ["image", "video", "text-only"])
def test_a_checkpoint_of_the_quickstart_from_end_to_end(quickstart_model, picture, tmp_path, capsys, kind):
    shown = ["--image", picture]
    if kind == "video":
        frames = [Image.new("RGB", (100, 80), (20 * number,) * 3) for number in range(12)]
        shown = ["--video", str(write_avi(tmp_path / "clip.avi", frames, fps=4))]
    options = ["--text-only"] if kind == "text-only" else []
    page = tmp_path / "page.html"
    question = "Which colour, and why this one? " * 9  # in the words of another world than the tokenizer's
    options += ["--model", str(quickstart_model), "--max-tokens", "9", "--html", str(page)]
    [response] = generate.run(arguments(*shown, "--question", question, *options))
    assert 1 <= (response.source == Source.SAMPLED).sum() <= 9 and response.ended != Ended.LENGTH
    assert "tokens written: " in capsys.readouterr().out
    [saved] = json.loads(page.with_suffix(".json").read_text())["trajectories"]
    assert saved["response"] == response.response and "data:image/" in page.read_text()
    assert page.read_text().count('<span class="above"') == (response.source == Source.SAMPLED).sum()


def test_a_query_has_all_of_its_responses_or_the_line_that_says_why_not(tmp_path):
    response = {"answer": None, "operations": [], "tokens": 3, "ended": "answer"}
    lines = [{"row": 1, "sample": 1, **response}, {"row": 0, "sample": 0, **response}, {"row": 0, "error": "gone"}]
    lines += [{"row": 1, "error": "gone"}, {"row": 1, "sample": 0, **response}]
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures, problem = generate_table._finish(tmp_path, samples=2)
    assert (figures["responses"], figures["unreadable"], problem) == (2, 1, "row 0: gone")
    left = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert [(line["row"], line.get("sample")) for line in left] == [(0, None), (1, 0), (1, 1)]


def test_many_questions_of_a_checkpoint(quickstart_model, picture, tmp_path, capsys):
    """Cut short in the middle of a line, it goes on to the same file."""
    rows = [{"image": "picture.png", "question": f"Which colour, {word}?"} for word in ("why", "where", "who")]
    rows.insert(1, {"image": "gone.png", "question": "?"})
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", str(quickstart_model), "--queries", str(tmp_path / "table.jsonl"), "--max-tokens", "9"]
    given += ["--samples", "2", "--seed", "4", "--slots", "2", "--out", str(tmp_path / "out")]
    parser = argparse.ArgumentParser()
    options.generate(parser)
    figures = generate.run(parser.parse_args(given))
    assert (figures["responses"], figures["unreadable"]) == (6, 1) and 6 <= figures["tokens"] <= 54
    path = tmp_path / "out" / "responses.jsonl"
    whole = path.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [(line["row"], line.get("sample")) for line in lines] == [
        *((0, 0), (0, 1), (1, None), (2, 0), (2, 1), (3, 0), (3, 1))
    ]
    assert [line["id"] for line in lines if "id" in line][::2] == ["table-000000", "table-000002", "table-000003"]
    kept = read_trajectories(tmp_path / "out", [generate_table.response_key(row, 1) for row in range(4)])
    assert [found.response for found in kept.values()] == [line["response"] for line in lines if line.get("sample")]
    path.write_bytes(whole[: len(whole) // 2])
    assert generate.run(parser.parse_args(given)) == figures and path.read_bytes() == whole
    assert "1 query could not be read; the first: row 1: " in capsys.readouterr().err
    shutil.copy(picture, tmp_path / "gone.png")  # the query is asked now, and nothing else again
    figures = generate.run(parser.parse_args(given))
    assert (figures["responses"], figures["unreadable"]) == (8, 0)
    mended = path.read_bytes().splitlines(keepends=True)
    assert mended[:2] + mended[4:] == [line for line in whole.splitlines(keepends=True) if b'"error"' not in line]
    assert [json.loads(line)["row"] for line in mended[2:4]] == [1, 1]
