"""Reads the frames of one video and their times, with PyAV.

Where packets and frames are one to one, the packets tell what is shown when, and a frame is reached from the key frame
before it. Everywhere else (transport streams, clips that begin between two key frames, packets without times) the whole
video is decoded once for the times of its frames, and again for those asked for. Either way, a frame that comes is the
one with the time that was asked for.
"""

from __future__ import annotations

import array
import contextlib
import os
from collections.abc import Iterator, Sequence

import av
from av.stream import Disposition

from pixel_reasoner_jax.video.containers import HEAD_BYTES, container_of
from pixel_reasoner_jax.video.index import CUT_OFF, DAMAGED, REENCODE, Frame, VideoError, VideoIndex

THREADS = 8  # of a decoder, at most: each holds frames of its own
SEEKABLE = ("mov", "matroska", "avi")  # containers whose key frames can be sought
PLAIN = ("h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "mpeg4")  # codecs with a frame for every packet that is shown
VP8_SHOWN = 0x10  # in the first byte of a packet
WHOLE = 0.9  # a video that ends before this share of its declared length is truncated


class VideoReader:
    """One open video.

    Args:
      descriptor: of its file, which stays open.
      max_pixels: frames with more are refused.

    Raises:
      VideoError: it is no video, or of a codec that is not known here.
    """

    def __init__(self, descriptor: int, max_pixels: int):
        self._descriptor, self._max_pixels = descriptor, max_pixels
        self._format = container_of(os.pread(descriptor, HEAD_BYTES, 0))
        self._open()

    def close(self) -> None:
        self._container.close()

    def index(self) -> VideoIndex:
        """Finds the frames; decodes the first one at least.

        Raises:
          VideoError: it has no frames, is damaged or truncated, or its times run backwards.
        """
        found = self._index_packets()
        if found is None:
            found = self._index_frames()
        times, keys, size = found
        if not _ascends(times):
            raise VideoError(f"has frames whose times run backwards or stand still: {REENCODE}")
        tick = float(self._stream.time_base)
        return VideoIndex(times, keys, tick, self._rate(times, tick), size)

    def read(self, wanted: Sequence[tuple[int, int, int | None]]) -> Iterator[Frame]:
        """Decodes frames.

        Args:
          wanted: of every frame, ascending: its number, its time in ticks, and that of the key frame before it; None
            where decoding begins with the first frame.

        Raises:
          VideoError: a frame is damaged or not there.
        """
        frames, reached = None, None
        for number, time, key in wanted:
            if frames is None or (key is not None and reached < key):
                frames = self._frames_from(key)
            frame = _find(frames, time)
            if frame is None or frame.is_corrupt:  # decoding could not begin there: it begins with the first frame
                frames = self._frames_from(None)
                frame = _find(frames, time)
            if frame is None or frame.is_corrupt:
                raise VideoError(f"is damaged: its frame {number + 1} cannot be decoded; {REENCODE}")
            reached = time
            yield Frame((frame.width, frame.height), frame.rotation, _rgb(frame))

    def _open(self) -> None:
        with _named(DAMAGED):
            self._container = av.open(
                _File(self._descriptor),
                "r",
                format=self._format,
                container_options={"protocol_whitelist": "none"},
                io_open=_open_nothing,
                metadata_errors="replace",
                buffer_size=2**17,
            )
        streams = [s for s in self._container.streams.video if Disposition.attached_pic not in s.disposition]
        if not streams:
            raise VideoError("has no video stream")
        self._stream = max(streams, key=_preference)
        if self._stream.codec_context is None:
            raise VideoError(f"is of a codec that cannot be decoded here: {REENCODE}")
        self._check_size(self._stream.width, self._stream.height)
        self._stream.codec_context.thread_type = "AUTO"
        self._stream.codec_context.thread_count = min(THREADS, os.cpu_count() or 1)

    def _index_packets(self) -> tuple[array.array, array.array, tuple[int, int]] | None:
        """Times of frames and key frames, and the first frame's size; None where packets do not tell them."""
        times, keys, end, first_key, count = array.array("q"), array.array("q"), 0, None, 0
        plain = self._format in SEEKABLE and self._stream.codec_context.name in PLAIN
        with _named(DAMAGED):
            for packet in self._container.demux(self._stream):
                if packet.size == 0 and packet.dts is None:
                    continue  # the one that ends the stream
                if packet.is_corrupt and self._format in SEEKABLE:
                    raise VideoError(f"is truncated: {CUT_OFF}")
                count += 1
                if packet.pts is None:
                    plain = False
                    continue
                end = max(end, packet.pts + (packet.duration or 0))
                if packet.is_discard or not self._is_shown(packet):
                    continue
                times.append(packet.pts)
                if packet.is_keyframe:
                    first_key = packet.pts if first_key is None else first_key
                    keys.append(packet.pts)
        self._check_whole(count, end)
        times, keys = (array.array("q", sorted(values)) for values in (times, keys))
        if not plain or first_key is None or times[0] < first_key or not _ascends(times):
            return None
        first = next(self._frames_from(keys[0]), None)
        return (times, keys, _shown_size(first)) if first is not None and first.pts == times[0] else None

    def _index_frames(self) -> tuple[array.array, array.array, tuple[int, int]]:
        """The same, of all frames that can be decoded: from the first one on, without those that are damaged."""
        times, size = array.array("q"), None
        for frame in self._frames_from(None):
            if frame.is_corrupt:
                continue
            size = size or _shown_size(frame)
            if _time(frame) is None:
                raise VideoError(f"has frames without times: {REENCODE}")
            times.append(_time(frame))
        if size is None:
            raise VideoError("has no frames that can be decoded")
        return times, array.array("q"), size

    def _frames_from(self, key: int | None) -> Iterator[av.VideoFrame]:
        """Decodes frames from a key frame on, or from the start.

        Before the first one, packets that refer to what was cut off are left out.
        """
        if key is None:  # opened again: not all demuxers can be sent back
            self._container.close()
            self._open()
        shown = False
        with _named(DAMAGED):
            if key is not None:
                self._container.seek(key, stream=self._stream)
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    if shown:
                        raise
                    continue
                for frame in frames:
                    self._check_size(frame.width, frame.height)
                    shown = True
                    yield frame

    def _is_shown(self, packet: av.Packet) -> bool:
        return self._stream.codec_context.name != "vp8" or bool(memoryview(packet)[0] & VP8_SHOWN)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise VideoError(f"has frames of {width}x{height} pixels, more than the limit of {self._max_pixels:,}")

    def _check_whole(self, count: int, end: int) -> None:
        """Compares the packets and the time at which they end with what the file declares, if it does."""
        if self._format not in SEEKABLE:
            return
        declared, start = self._stream.duration, self._stream.start_time or 0
        if declared is None and len(self._container.streams) == 1 and self._container.duration:
            declared = int(self._container.duration / av.time_base / self._stream.time_base)
        fewer = self._format == "avi" and count < WHOLE * self._stream.frames  # in MP4 an edit may leave packets out
        if fewer or end - start < WHOLE * (declared or 0):
            raise VideoError(f"is truncated: {CUT_OFF}")

    def _rate(self, times: array.array, tick: float) -> float:
        """Frames in a second: as declared, unless the times say otherwise by more than a hundredth."""
        declared = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        if len(times) == 1:
            return declared or 1.0
        measured = (len(times) - 1) / ((times[-1] - times[0]) * tick)
        return declared if abs(declared - measured) < 0.01 * measured else measured


class _File:
    """A file as PyAV reads it, with a place in it of its own: other processes may share the descriptor."""

    def __init__(self, descriptor: int):
        self._descriptor, self._place = descriptor, 0

    def read(self, size: int) -> bytes:
        data = os.pread(self._descriptor, size, self._place)
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = (0, self._place, os.fstat(self._descriptor).st_size)[whence]
        self._place = max(start + offset, 0)
        return self._place

    def tell(self) -> int:
        return self._place


@contextlib.contextmanager
def _named(problem: str) -> Iterator[None]:
    """Turns the errors of ffmpeg into ours, without their text, which says nothing to a user."""
    try:
        yield
    except MemoryError:
        raise
    except (av.FFmpegError, OverflowError, IndexError) as error:
        raise VideoError(problem) from error


def _open_nothing(url: str, flags: int, options: dict) -> None:
    raise PermissionError("a video may not open other files")


def _preference(stream: av.VideoStream) -> tuple[bool, bool, int]:
    """Orders the streams of a file as players do: those that can be decoded, the default one, the largest."""
    if stream.codec_context is None:
        return False, False, 0
    return True, Disposition.default in stream.disposition, stream.width * stream.height


def _rgb(frame: av.VideoFrame) -> bytes | memoryview:
    """The pixels of a frame, row by row without gaps."""
    [plane] = frame.reformat(format="rgb24").planes
    width, pixels = 3 * frame.width, memoryview(plane)
    if plane.line_size == width:
        return pixels[: width * frame.height]
    starts = range(0, plane.line_size * frame.height, plane.line_size)
    return b"".join([pixels[start : start + width] for start in starts])


def _shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    turned = round(frame.rotation / 90) % 2
    return (frame.height, frame.width) if turned else (frame.width, frame.height)


def _time(frame: av.VideoFrame) -> int | None:
    return frame.dts if frame.pts is None else frame.pts


def _find(frames: Iterator[av.VideoFrame], time: int) -> av.VideoFrame | None:
    """The frame with this time; None if it does not come."""
    for frame in frames:
        if _time(frame) == time:
            return frame
        if _time(frame) is not None and _time(frame) > time:
            break
    return None


def _ascends(times: Sequence[int]) -> bool:
    return all(a < b for a, b in zip(times, times[1:], strict=False))
