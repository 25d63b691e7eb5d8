from __future__ import annotations

import contextlib
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import MetricWriter, Progress, read_metrics


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    with MetricWriter(tmp_path / "run") as writer:
        writer.write(1, {"reward": 0.5, "loss": jnp.float32(2), "rate": np.float64(0.25), "absent": None})
        (line,) = read_metrics(tmp_path / "run")
        assert {name: line[name] for name in ("step", "reward", "loss", "rate")} == {
            "step": 1,
            "reward": 0.5,
            "loss": 2.0,
            "rate": 0.25,
        }
        assert line["time"] > 0 and "absent" not in line
        writer.write(2, {"loss": float("nan"), "gradient_norm": float("inf")})
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2]
    last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last, parse_constant=lambda name: 1 / 0)["loss"] is None  # plain JSON: no NaN
    assert len(list((tmp_path / "run").glob("events.out.tfevents*"))) == 1


def test_a_resumed_run_writes_every_step_once(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    with MetricWriter(tmp_path, step=3) as writer:
        for step in (4, 5):
            writer.write(step, {"loss": 10 * step})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 40),
        (5, 50),
    ]


def test_damaged_lines_block_nothing(tmp_path, caplog):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 7):
            writer.write(step, {"loss": step})
    file = tmp_path / "metrics.jsonl"
    lines = file.read_bytes().splitlines()
    lines[1], lines[2], lines[3] = lines[1][:20], b'\xff\x00"', b"[" * 100_000
    lines += [b"", b'{"loss": 1}', b'{"step": "7"}', b"7", b'{"step": 8, "loss": 8}']
    file.write_bytes(b"\n".join(lines) + b"\n")
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 5, 6, 8]
    assert "7 lines are damaged and left out, the first is line 2" in caplog.text
    with MetricWriter(tmp_path, step=6) as writer:
        writer.write(7, {"loss": 7})
    caplog.clear()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 5, 6, 7]
    assert not caplog.text


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl is a directory: name a file to write"):
        MetricWriter(tmp_path)


def test_a_full_disk_is_an_error_of_the_line_that_has_no_room(tmp_path, monkeypatch):
    writer = MetricWriter(tmp_path)
    writer.write(1, {"loss": 1})
    writer.flush()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(writer, "_lines", full)
        with pytest.raises(OSError, match="No space left"):
            for step in range(2, 9999):
                writer.write(step, {"loss": step})
                full.flush()
        with contextlib.suppress(OSError):
            writer.close()


def test_a_new_run_starts_anew(tmp_path):
    for value in (1, 2):
        with MetricWriter(tmp_path) as writer:
            for step in (0, 1):  # 0: before the first one
                writer.write(step, {"loss": value})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(0, 2), (1, 2)]
    with MetricWriter(tmp_path, step=1):
        pass
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]


def test_progress_without_a_terminal_prints_plain_lines():
    output = io.StringIO()
    with Progress("training [x]", total=3, interval=0, file=output) as progress:
        for step in (1, 2, 3):
            progress.update(step, loss=step / 3, reward_bonus=0)
    assert output.getvalue().splitlines() == [
        "training [x]: 0/3",
        "training [x]: 1/3  loss 0.333  reward bonus 0",
        "training [x]: 2/3  loss 0.667  reward bonus 0",
        "training [x]: 3/3  loss 1  reward bonus 0",
    ]
    quiet = io.StringIO()
    with Progress("training", total=3, interval=1000, file=quiet) as progress:
        for step in (1, 2, 3):
            progress.update(step)
    assert quiet.getvalue().splitlines() == ["training: 0/3", "training: 3/3"]


def test_progress_in_a_terminal_is_a_bar(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = io.StringIO()
    with Progress("training", total=3, file=output) as progress:
        progress.update(3, loss=0.5)
    assert "3/3" in output.getvalue() and "loss 0.5" in output.getvalue()


def test_notes_within_a_step(monkeypatch):
    """No two within an interval, and none hides the line of a finished step."""
    now, output = [0.0], io.StringIO()
    monkeypatch.setattr("pixel_reasoner_jax.metrics.time.monotonic", lambda: now[0])
    with Progress("rl", total=3, step=1, interval=30, file=output) as progress:
        for seconds, text in ((10, "early"), (31, "a [b]"), (40, "too soon"), (62, "c")):
            now[0] = seconds
            progress.note(text)
        progress.update(2, rapr=0.5)
        progress.note("too soon")
        now[0] = 93
        progress.note("d")
    lines = ["1/3", "1/3  a [b]", "1/3  c", "2/3  rapr 0.5", "2/3  d"]
    assert output.getvalue().splitlines() == [f"rl: {line}" for line in lines]


def test_notes_in_a_terminal_stand_beside_the_bar(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = io.StringIO()
    with Progress("rl", total=3, file=output) as progress:
        progress.note("rollout 3/8 responses")
    assert "0/3" in output.getvalue() and "rollout 3/8 responses" in output.getvalue()
