"""`pixel-reasoner generate`: what it prints, what it saves, and what it says when it cannot."""

import argparse
import dataclasses
import io
import json

import numpy as np
import pytest
import rich.console
from PIL import Image

from data_pipeline.tokenizer import conversation_texts, save_processor, train_tokenizer
from pixel_reasoner_jax import generate
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.processing import Budgets, MediaError
from pixel_reasoner_jax.rollout.episode import EpisodeEnd, OperationRun, TurnText
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory

CROP = OperationRecord(0, "crop_image_normalized", {"bbox_2d": [0.1, 0.9]}, boxes=((0, 0, 50, 50),), sizes=((56, 56),))
FAILED = OperationRecord(1, None, None, error="not JSON [red]\x1b]0;title\x07")


def arguments(*given):
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
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
    monkeypatch.setattr(generate, "load_policy", lambda *_, **__: fake)
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
        (("--question", "?", "--image", picture), FileNotFoundError, "some/model: no such model directory"),
    ]
    for given, error, text in cases:
        with pytest.raises(error, match=text):
            generate.run(arguments(*given))


def test_a_video_is_handed_on(tmp_path):
    path = tmp_path / "clip.avi"
    path.write_bytes(b"not read here")
    query = generate.build_query(arguments("--question", "What happens?", "--video", str(path)))
    assert query == {"id": "clip.avi", "question": "What happens?", "answer": "", "video": str(path)}


def test_a_checkpoint_directory_from_end_to_end(picture, tmp_path, capsys):
    """A random model of the smallest preset: what it writes is noise, but it goes all the way."""
    texts = conversation_texts([{"role": "user", "content": "Which colour? zoom in and answer"}])
    tokenizer = train_tokenizer(texts, 400)
    save_processor(tokenizer, tmp_path / "model", Budgets(image=(4, 4), crop=(4, 4)))
    ids = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()}
    config = dataclasses.replace(Config.preset("tiny"), vocab_size=len(tokenizer), **ids)
    Qwen2_5_VL.create(config).save_pretrained(tmp_path / "model")

    given = ["--image", picture, "--question", "Which colour?", "--max-tokens", "9", "--text-only"]
    [response] = generate.run(arguments("--model", str(tmp_path / "model"), *given, "--out", str(tmp_path / "o.json")))
    assert 1 <= (response.source == 1).sum() <= 9
    assert "tokens written: " in capsys.readouterr().out
    assert json.loads((tmp_path / "o.json").read_text())["trajectories"][0]["response"] == response.response
