"""Parts of videos, by seconds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from pixel_reasoner_jax.processing.decoding import VideoFile
from pixel_reasoner_jax.processing.sources import MediaError
from pixel_reasoner_jax.processing.videos import LIST_FPS, Video


@dataclasses.dataclass(frozen=True)
class Clip:
    """From `start` to `end` in seconds; what lies outside the video is left out, and one frame is always left."""

    start: float
    end: float

    def take(self, video: str | bytes | list[Any], fps: float | None, count: int) -> Video | list[Any]:
        """The frames of a list that lie in the clip, or `count` frames of a file.

        Raises:
          MediaError: the file cannot be read, or there are no frames.
        """
        if isinstance(video, list):
            first, last = self.bounds(len(video), LIST_FPS if fps is None else fps)
            return video[first : last + 1]
        file = VideoFile(video)
        chosen = self.indices(file.total, file.fps, count)
        times = file.times(chosen)
        seconds = max((chosen[-1] - chosen[0]) / file.fps, 1 / file.fps)
        return Video(list(file.frames(chosen)), times, max(len(chosen) - 1, 1) / seconds)

    def bounds(self, total: int, fps: float) -> tuple[int, int]:
        """The first and the last frame, from 0, of a video of `total` frames."""
        if not total:
            raise MediaError("the video has no frames")
        start = self.start if math.isfinite(self.start) else 0.0
        end = self.end if math.isfinite(self.end) else total / fps
        first = min(max(round(start * fps), 0), total - 1)
        return first, min(max(round(end * fps), first), total - 1)

    def indices(self, total: int, fps: float, count: int) -> list[int]:
        """`count` frames, each in the middle of one of as many equal parts, as MVBench's own code takes them.

        A frame that would be taken twice is taken once.
        """
        first, last = self.bounds(total, fps)
        part = (last - first) / count
        return sorted({min(int(first + part / 2 + round(part * k)), last) for k in range(count)})
