"""Which of the frames sampled from a video show what happens in a window of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.sources.base import Entry
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.processing.decoding import VideoFile, sample_indices

MOST_FRAMES = 8
"""In a call of `select_frames`."""


def window_frames(
    entry: Entry, video: Any, window: Sequence[float], count: int, fps: float | None = None
) -> tuple[int, ...]:
    """The numbers, from 1, of the sampled frames within a window; where there are more than 8, 8 spread over it.

    Args:
      entry: for messages.
      video: a file, or a list of frames.
      window: start and end in seconds; between two frames, the nearest one is taken.
      count: frames sampled from the video, as `Processor.load_video` does.
      fps: of a list of frames.
    """
    start, end = window
    if not 0 <= start <= end:
        raise entry.error(f"the window {list(window)} is not [start, end] in seconds")
    if isinstance(video, list):
        times = np.array(sample_indices(len(video), count)) / fps
        length = len(video) / fps
    else:
        try:
            file = VideoFile(video)
            times = np.array(file.times(sample_indices(file.total, count)))
        except MediaError as error:
            raise entry.error(str(error)) from error
        length = file.total / file.fps
    if start >= length:
        raise entry.error(f"the window {list(window)} begins after the video's {length:.1f} seconds")
    inside = np.flatnonzero((times >= start) & (times <= end))
    if not len(inside):
        inside = np.array([np.abs(times - (start + end) / 2).argmin()])
    return tuple(int(inside[index]) + 1 for index in sample_indices(len(inside), MOST_FRAMES))
