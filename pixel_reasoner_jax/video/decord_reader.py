"""Reads videos with decord, where PyAV is not installed: what decord does not show as it is, is refused."""

from __future__ import annotations

import array
import os
from collections.abc import Iterator, Sequence

import decord
import numpy as np

from pixel_reasoner_jax.video.containers import HEAD_BYTES, container_of
from pixel_reasoner_jax.video.index import CUT_OFF, DAMAGED, Frame, VideoError, VideoIndex

CONTAINERS = ("mov", "matroska", "avi")  # in others decord returns frames that are not those at their times
TICK = 1e-6
NEEDS_AV = "cannot be read exactly without PyAV: pip install av"


class DecordReader:
    """One open video; arguments, methods and errors as of `reader.VideoReader`."""

    def __init__(self, descriptor: int, max_pixels: int):
        head = os.pread(descriptor, HEAD_BYTES, 0)
        if container_of(head) not in CONTAINERS:
            raise VideoError(NEEDS_AV)
        if head.startswith(b"RIFF") and int.from_bytes(head[4:8], "little") + 8 > os.fstat(descriptor).st_size:
            raise VideoError(f"is truncated: {CUT_OFF}")
        try:
            self._reader = decord.VideoReader(f"/dev/fd/{descriptor}")
            self._shape = self._frame(0).shape
        except MemoryError:
            raise
        except Exception as error:  # decord raises its own class, RuntimeError and IndexError alike
            raise VideoError(DAMAGED) from error
        height, width = self._shape[:2]
        if height * width > max_pixels:
            raise VideoError(f"has frames of {width}x{height} pixels, more than the limit of {max_pixels:,}")

    def close(self) -> None:
        del self._reader

    def index(self) -> VideoIndex:
        seconds = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0]
        if not (seconds[0] >= 0 and np.all(np.diff(seconds) > 0)):  # cut from another one, or without times
            raise VideoError(NEEDS_AV)
        times = array.array("q", np.round(seconds / TICK).astype(np.int64).tolist())
        height, width = self._shape[:2]
        return VideoIndex(times, array.array("q"), TICK, float(self._reader.get_avg_fps()), (width, height))

    def read(self, wanted: Sequence[tuple[int, int, int | None]]) -> Iterator[Frame]:
        for number, _, _ in wanted:
            try:
                frame = self._frame(number)
            except MemoryError:
                raise
            except Exception as error:
                raise VideoError(DAMAGED) from error
            yield Frame((frame.shape[1], frame.shape[0]), 0, frame.tobytes())

    def _frame(self, number: int) -> np.ndarray:
        """A frame, upright. Of narrow ones decord shows the gaps between rows as further channels."""
        frame = self._reader[number].asnumpy()
        height, width = frame.shape[:2]
        return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
