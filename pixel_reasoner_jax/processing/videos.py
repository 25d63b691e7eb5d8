"""Videos as frames that were sampled from them, and the rest of their frames, which are decoded when looked at."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.processing.decoding import sample_video
from pixel_reasoner_jax.processing.sources import MediaError, describe

LIST_FPS = 2.0
"""The sampling rate assumed for a video given as a list of frames without one (Qwen2.5-VL's own default)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """All frames of a video, of which those that are looked at are decoded.

    Attributes:
      count: of the frames.
      fps: frames in a second.
      times: returns the times of frames by their indices, in seconds from the start; they ascend.
      sampled: the indices of those frames that were sampled.
      frames: returns frames by their indices, which ascend: RGB images, or pictures if a store opened the video. It
        raises a MediaError if they cannot be decoded any more.
    """

    count: int
    fps: float
    times: Callable[[Sequence[int]], tuple[float, ...]]
    sampled: tuple[int, ...]
    frames: Callable[[Sequence[int]], list[Any]]

    @property
    def duration(self) -> float:
        """Seconds of video."""
        return self.count / self.fps


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """Frames sampled from a video.

    Attributes:
      frames: RGB images of one size, or pictures if a store opened the video.
      times: the time of each frame, in seconds from the start.
      fps: sampled frames in a second of video.
      clip: what they were sampled from, if more of it can be had.
    """

    frames: list[Any]
    times: tuple[float, ...]
    fps: float
    clip: Clip | None = None


def sample_frames(
    source: Sequence[Any], count: int, fps: float | None, load: Callable[[Any], Any], rate: float
) -> Video:
    """Samples a video given as a list of frames.

    Args:
      source: the frames.
      count, fps, rate: see `loading.load_video`.
      load: turns each frame that is taken into an image with a `size`.

    Raises:
      MediaError: it is no list, there are no frames, frames of different sizes, or `fps` is not positive.
    """
    if not isinstance(source, Sequence):
        raise MediaError(f"a video is a path, bytes or a list of frames, not {shown(source)}")
    if not len(source):
        raise MediaError("video given as a list: it has no frames")
    fps = LIST_FPS if fps is None else float(fps)
    if not 0 < fps < float("inf"):
        raise MediaError(f"video given as a list of {len(source)} frames: fps must be positive, got {fps}")
    chosen = sample_video(len(source), fps, count, rate)
    frames = [load(source[index]) for index in chosen]
    for index, frame in zip(chosen, frames, strict=True):
        if frame.size != frames[0].size:
            raise MediaError(
                f"{describe(source[index])}: frame {index + 1} is {frame.width}x{frame.height} pixels,"
                f" the first one {frames[0].width}x{frames[0].height}"
            )
    clock = functools.partial(_even_times, fps)
    clip = Clip(len(source), fps, clock, tuple(chosen), functools.partial(load_each, source, load))
    return Video(frames, clock(chosen), fps * len(chosen) / len(source), clip)


def _even_times(fps: float, indices: Sequence[int]) -> tuple[float, ...]:
    return tuple(index / fps for index in indices)


def given_times(times: Sequence[float], indices: Sequence[int]) -> tuple[float, ...]:
    return tuple(times[index] for index in indices)


def load_each(source: Sequence[Any], load: Callable[[Any], Any], indices: Sequence[int]) -> list[Any]:
    return [load(source[index]) for index in indices]
