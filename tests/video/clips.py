"""Clips that ffmpeg makes, and what ffmpeg shows of them."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import numpy as np
import pytest

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg, the oracle, is not installed")


def ffmpeg(*arguments: str | pathlib.Path) -> None:
    subprocess.run(["ffmpeg", "-y", "-v", "error", "-threads", "1", *map(str, arguments)], check=True)


def film(path: pathlib.Path, *options: str, size: str = "64x48", seconds: int = 3) -> pathlib.Path:
    """A moving test picture, 10 frames a second, a key frame every second."""
    coded = options or ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "10", "-pix_fmt", "yuv420p")
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=10:duration={seconds}", *coded, path)
    return path


def shown(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    """Every frame that ffmpeg shows, uint8 [frames, height, width, 3]."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    pixels = subprocess.run([*command, "-"], check=True, capture_output=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, size[1], size[0], 3)


def times(path: pathlib.Path) -> list[float]:
    """The times of these frames, from the first one, in seconds."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"]
    command += ["-show_entries", "frame=best_effort_timestamp_time", str(path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    seconds = [float(line.rstrip(",")) for line in lines if line.strip(",")]
    return [second - seconds[0] for second in seconds]
