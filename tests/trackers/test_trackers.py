"""Trackers: what they are told, that none of them ends a run, and what TensorBoard and W&B have then."""

from __future__ import annotations

import json
import threading
import time
import types

import pytest
from PIL import Image

from pixel_reasoner_jax import config_values, trackers
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import MetricWriter, read_metrics
from pixel_reasoner_jax.trackers import TRACKERS, TrackedRun, TrackedSample, Tracker
from pixel_reasoner_jax.trackers.tracker import sheet
from pixel_reasoner_jax.training import samples

SAMPLE = TrackedSample(
    *("q1", 0, "<b>Which?</b>", "4", "I look.<image>\n# 4"),
    figures={"reward": 1.0, "advantage": 0.25},
    images=[Image.new("RGB", (600, 300), "red"), Image.new("L", (30, 40), 9)],
)


class Kept(Tracker):
    """Keeps what it is told."""

    def __init__(self, run):
        super().__init__(run)
        self.told = []
        runs.append(self)

    def __getattribute__(self, name):
        if name in ("figures", "samples", "alarm", "flush", "close"):
            return lambda *arguments: self.told.append((name, *arguments))
        return super().__getattribute__(name)


class Broken(Tracker):
    """Fails in most of what it is asked."""

    def figures(self, step, values):
        if step != 3:
            raise SystemExit("gone\naway") if step == 2 else ConnectionError("no route")


class Taker(Tracker):
    """Takes what it is told for its own."""

    def figures(self, step, values):
        values.clear()

    def samples(self, step, samples):
        samples.clear()


class Hanging(Tracker):
    """Hangs where it is told to."""

    where = ""

    def __init__(self, run):
        super().__init__(run)
        self.wait("begins")

    def wait(self, where):
        if where == self.where:
            hung.wait()

    def figures(self, step, values):
        self.wait("figures")

    def close(self):
        self.wait("close")


def never(run):
    raise TimeoutError("no server")


hung = threading.Event()
runs: list[Kept] = []
HERE = "tests.trackers.test_trackers"


def test_trackers_are_told_of_a_run(tmp_path):
    with MetricWriter(tmp_path / "run", 0, (f"{HERE}:Kept",), config={"seed": 3}) as writer:
        writer.write(1, {"loss": 0.5, "absent": None})
        writer.trackers.tell("samples", 1, [SAMPLE])
    (run,) = [one for one in runs if one.run.workdir == tmp_path / "run"]
    assert run.run == TrackedRun("run", tmp_path / "run", tmp_path / "run", {"seed": 3}, 0)
    assert run.told == [("figures", 1, {"loss": 0.5}), ("samples", 1, [SAMPLE]), ("close",)]
    assert not list((tmp_path / "run").glob("events*"))


def test_a_tracker_that_fails_is_named_and_left_out_and_ends_nothing(tmp_path, caplog):
    names = (f"{HERE}:Broken", f"{HERE}:never", f"{HERE}:Kept")
    with MetricWriter(tmp_path, 0, names) as writer:
        for step in range(1, 9):
            writer.write(step, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 8
    messages = [record.getMessage() for record in caplog.records]
    messages.remove(f"tracker '{HERE}:never' has not begun and is left out: TimeoutError: no server")
    failed = [f"tracker '{HERE}:Broken' has failed (figures): {why}" for why in ("ConnectionError: no route",)]
    assert messages[0] == failed[0] and messages[1].endswith("SystemExit: gone away")
    assert messages[2:5] == failed * 3  # after step 3 it began anew to fail
    assert messages[5].endswith("is left out from here on, after 3 failures in a row") and len(messages) == 6
    assert writer.trackers is not None and not writer.trackers  # all have ended
    assert len([told for told in runs[-1].told if told[0] == "figures"]) == 8


def test_what_a_tracker_takes_away_others_have(tmp_path):
    with MetricWriter(tmp_path, 0, (f"{HERE}:Taker", f"{HERE}:Kept")) as writer:
        writer.write(1, {"loss": 0.5})
        writer.trackers.tell("samples", 1, [SAMPLE])
    assert runs[-1].told[:2] == [("figures", 1, {"loss": 0.5}), ("samples", 1, [SAMPLE])]


@pytest.mark.parametrize("where", ["begins", "figures", "close"])
def test_a_tracker_that_hangs_holds_nothing_up(where, tmp_path, monkeypatch, caplog):
    """The run ends, the others have all, and what it was told takes no more memory than is given to it."""
    monkeypatch.setattr(trackers, "END_SECONDS", 0.2)
    hung.clear()
    monkeypatch.setattr(Hanging, "where", where)
    with MetricWriter(tmp_path, 0, (f"{HERE}:Hanging", f"{HERE}:Kept")) as writer:
        (hanging, _) = writer.trackers._followers
        for step in range(1, 400):
            writer.write(step, {"loss": 1.0})
            writer.trackers.tell("samples", step, [SAMPLE])
            writer.trackers.tell("flush")
            # That the others keep up is no matter of luck.
            while len(runs[-1].told) < 3 * step or (where == "close" and hanging._told):
                time.sleep(0.0001)
        assert len(hanging._told) <= 256 + 2 + 1
    hung.set()
    assert len(read_metrics(tmp_path)) == 399
    assert len([told for told in runs[-1].told if told[0] == "figures"]) == 399 and runs[-1].told[-1] == ("close",)
    messages = [record.getMessage() for record in caplog.records]
    behind = f"tracker '{HERE}:Hanging' does not keep up: it has lost samples, and may lose more"
    assert messages == ([behind] if where != "close" else []) + [
        f"tracker '{HERE}:Hanging' has not ended in time: what it has not written yet is lost"
    ]


def test_names_of_trackers(monkeypatch):
    assert tuple(TRACKERS) == config_values.TRACKERS
    with pytest.raises(UserError, match="unknown tracker 'tensorbord'; known: tensorboard, wandb"):
        trackers.find_trackers(("tensorbord",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'wandb', and it is not installed: pip install 'pixel-reasoner-jax\[wandb\]'"):
        trackers.find_trackers(("wandb",))


def test_tensorboard_shows_samples_and_alarms(tmp_path):
    from tensorboardX.proto import event_pb2

    with MetricWriter(tmp_path) as writer:
        writer.trackers.tell("samples", 3, [SAMPLE])
        writer.trackers.tell("alarm", 3, "rapr", "hardly any")
        writer.write(3, {"loss": 1.0})
    (file,) = tmp_path.glob("events.out.tfevents*")
    values, data = {}, file.read_bytes()
    while data:  # length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        values |= {value.tag: (event.step, value) for value in event.summary.value}
        data = data[16 + length :]
    assert set(values) == {"samples/0", "samples/0/text/text_summary", "alarms/rapr/text_summary", "loss"}
    step, value = values["samples/0"]
    assert step == 3 and (value.image.width, value.image.height) == (256 + 4 + 30, 128)
    text = values["samples/0/text/text_summary"][1].tensor.string_val[0].decode()
    assert (
        "    # 4" in text and "    <b>Which?</b>" in text and "reward 1, advantage 0.25" in text
    )  # as code, not markup


def test_a_sheet_has_every_image():
    images = [Image.new("RGB", (100, 50), color) for color in ("red", "green", "blue", "black", "yellow")]
    made = sheet(images)
    assert made.size == (4 * 104 - 4, 104) and made.getpixel((1, 103)) == (255, 255, 0)
    assert sheet([]) is None and images[0].size == (100, 50)


@pytest.mark.slow
def test_wandb_offline_has_figures_config_samples_and_alarms_and_goes_on(tmp_path, monkeypatch):
    """By the real client, without a network."""
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    workdir = tmp_path / "run"
    for step in (0, 1):
        with MetricWriter(workdir, step, ("wandb",), config={"optimizer": {"learning_rate": 0.125}}) as writer:
            writer.trackers.tell("samples", step + 1, [SAMPLE])
            writer.trackers.tell("alarm", step + 1, "rapr", "hardly any")
            writer.write(step + 1, {"loss": 0.5, "evaluation/data/score": float("nan")})
            assert writer.trackers
    identity = json.loads((workdir / "wandb.json").read_text())["id"]
    first, second = sorted(workdir.glob("wandb/offline-run-*"))
    assert first.name.endswith(identity) and second.name.endswith(identity)
    assert len(list(first.glob("files/media/images/**/*.png"))) == 1
    (table,) = [json.loads(file.read_text()) for file in first.glob("files/media/table/*.table.json")]
    assert table["data"][0][:6] == [1, "q1", 0, "<b>Which?</b>", "4", "I look.<image>\n# 4"]
    (stored,) = first.glob("*.wandb")
    data = stored.read_bytes()
    assert b"learning_rate" in data and b"evaluation/data/score" in data and b"hardly any" in data
    assert [line["step"] for line in read_metrics(workdir)] == [1, 2]


def test_samples_of_a_run_as_trackers_get_them():
    image = Image.new("RGB", (8, 8), "red")
    messages = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I look. "}]},
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "image", "image": "gone.png"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "x" * 50_000}]},
    ]
    trajectory = types.SimpleNamespace(
        messages=messages, query_id="q\ud800", sample=2, question="Which\ud800?", reference=["4", "four\ud800"]
    )
    rewarded = types.SimpleNamespace(
        groups=[[trajectory]], rewards={(0, 0): 1.5}, advantages={(0, 0): 0.5}, terms={"correct": {(0, 0): 1.0}}
    )
    one = samples._tracked(rewarded, (0, 0))
    assert one.text.startswith("I look. <image><image>xxx") and len(one.text) == samples.MOST_TEXT
    assert len(one.images) == 2 and one.reference == "4 | four?"
    assert all(text.encode() for text in (one.query_id, one.question, one.text))  # no lone surrogate
    assert one.figures == {"reward": 1.5, "advantage": 0.5, "reward_correct": 1.0}
