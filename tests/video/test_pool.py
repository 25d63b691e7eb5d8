"""Nothing that decoding does reaches the process that asks: crashes, hangs, memory, and what becomes of children."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax import child_processes
from pixel_reasoner_jax.processing import MediaError, decoding, load_video, sources
from pixel_reasoner_jax.processing.decoding import VideoFile
from pixel_reasoner_jax.video.pool import DecoderPool
from tests.processing.avi import write_avi


def write_film(path: pathlib.Path, size: tuple[int, int] = (64, 48), count: int = 12) -> pathlib.Path:
    """10 frames a second; frame n is of grey 20 n."""
    return write_avi(path, [Image.new("RGB", size, (20 * number,) * 3) for number in range(count)], fps=10)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> pathlib.Path:
    return write_film(tmp_path_factory.mktemp("video") / "film.avi")


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> pathlib.Path:
    """Its frames are larger than a pipe."""
    return write_film(tmp_path_factory.mktemp("video") / "large.avi", (1000, 800), 6)


@pytest.fixture
def pool(monkeypatch):
    """A pool of one child, which decodes the videos of a test."""
    with_one = DecoderPool(2**32, workers=1)
    monkeypatch.setattr(decoding, "decoders", lambda memory: with_one)
    yield with_one
    with_one.close()


def greys(frames) -> list[int]:
    return [round(np.asarray(frame).mean() / 20) for frame in frames]


def ends(pid: int) -> bool:
    """Whether a process ends within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_a_child_is_kept_and_replaced_when_it_was_killed_or_stopped(pool, film):
    assert greys(load_video(film, 3).frames) == [0, 6, 11]
    [child] = pool._idle
    for number in (signal.SIGKILL, signal.SIGSTOP):
        assert load_video(film, 2).fps == pytest.approx(10 / 6)
        assert pool._idle == [child]
        os.kill(child.process.pid, number)
        while child.runs():
            time.sleep(0.01)
        assert greys(load_video(film, 3).frames) == [0, 6, 11]
        assert child.process.poll() is not None
        [child] = pool._idle


def test_a_child_that_dies_while_it_decodes_is_an_error_of_that_video_alone(pool, film, large):
    for number in (signal.SIGSEGV, signal.SIGKILL):
        video = VideoFile(large)
        [child] = pool._idle
        frames = video.frames(range(6))
        assert greys([next(frames)]) == [0]
        os.kill(child.process.pid, number)
        with pytest.raises(MediaError, match=rf"large\.avi: the video ended the process.*\({number.name}\): re-encode"):
            list(frames)
        assert greys(load_video(film, 3).frames) == [0, 6, 11]


def test_a_child_that_hangs_is_ended_at_the_deadline(pool, film, large, monkeypatch):
    video = VideoFile(large)
    [child] = pool._idle
    monkeypatch.setattr(sources, "_settings", dataclasses.replace(sources.media_settings(), video_seconds=1.0))
    frames = video.frames(range(6))
    next(frames)
    os.kill(child.process.pid, signal.SIGSTOP)
    with pytest.raises(MediaError, match=r"large\.avi: the video took more time .*config\.media\.video_seconds"):
        list(frames)
    assert child.process.poll() is not None
    monkeypatch.undo()
    assert greys(load_video(film, 3).frames) == [0, 6, 11]


def test_a_child_takes_no_more_memory_than_it_may(monkeypatch, tmp_path, film):
    pytest.importorskip("av", reason="decord takes more by itself")
    with_little = DecoderPool(2**28, workers=1)
    monkeypatch.setattr(decoding, "decoders", lambda memory: with_little)
    huge = write_film(tmp_path / "huge.avi", (6000, 6000), 1)
    with pytest.raises(
        MediaError, match=r"huge\.avi: the video takes more than 0\.2 GiB .*config\.media\.video_memory"
    ):
        load_video(huge)
    assert greys(load_video(film, 3).frames) == [0, 6, 11]
    with_little.close()


def test_threads_share_the_children_there_are(pool, film):
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        assert list(threads.map(lambda count: greys(load_video(film, count).frames)[-1], [2, 3, 4] * 4)) == [11] * 12
    assert len(pool._idle) == 1


def test_frames_that_nobody_takes_keep_no_place(pool, film, large):
    frames = VideoFile(large).frames(range(6))
    next(frames)
    frames.close()
    assert greys(load_video(film, 3).frames) == [0, 6, 11]


def test_a_child_that_does_not_start_says_how_to_see_why(monkeypatch, film):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the video decoder does not start: run `/bin/false -P -m pixel_reasoner"):
        DecoderPool(2**32).index(0, 100, 10.0)


SCRIPT = """
import os, sys
from pixel_reasoner_jax.processing import load_video
from pixel_reasoner_jax.video import pool

print(len(load_video(sys.argv[1], 3).frames), pool._shared._idle[0].process.pid, flush=True)
if sys.argv[2] == "fork" and os.fork() == 0:
    print(len(load_video(sys.argv[1], 4).frames), pool._shared._idle[0].process.pid, flush=True)
    os._exit(0)
if sys.argv[2] == "fork":
    os.wait()
    print(len(load_video(sys.argv[1], 5).frames), pool._shared._idle[0].process.pid, flush=True)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["kill", "fork"])
def test_scripts_need_no_main_guard_and_children_end_with_them(tmp_path, film, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), str(film), how]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL).stdout
    counts, children = zip(*(map(int, line.split()) for line in out.splitlines()), strict=True)
    assert counts == ((3, 4, 5) if how == "fork" else (3,))
    assert len(set(children)) == (2 if how == "fork" else 1)
    assert all(map(ends, children))


def test_a_stopped_child_does_not_count_as_running():
    child = subprocess.Popen(["sleep", "60"])
    assert child_processes.runs(child)
    child.send_signal(signal.SIGSTOP)
    while child_processes.runs(child):
        time.sleep(0.01)
    child_processes.end(child)
    assert not child_processes.runs(child)


def test_bytes_are_copied_once_and_not_within_this_process(film):
    """The copy is a file in memory, which is handed to the child."""
    data = film.read_bytes() + bytes(60_000_000)
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    except OSError:
        pytest.skip("this system does not measure the peak of memory anew")
    before, _ = memory()
    assert greys(load_video(data, 3).frames) == [0, 6, 11]
    assert memory()[1] - before < 30_000_000


def memory() -> tuple[int, int]:
    """Bytes of memory that this process takes, and took at most."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return values["VmRSS"], values["VmHWM"]
