"""Decodes files: RGB images and the frames of videos. A file that cannot be read is a `MediaError` that names it."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from pixel_reasoner_jax.processing.pixels import PixelError, PixelGate, oriented_size, upright_rgb
from pixel_reasoner_jax.processing.sources import (
    START,
    MediaError,
    describe,
    media_settings,
    mistaken_for_medium,
    open_media,
    open_video,
)
from pixel_reasoner_jax.video.index import REENCODE, Frame, VideoError, VideoIndex
from pixel_reasoner_jax.video.pool import decoders

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "PPM",
    "TIFF",
    *({"AVIF"} & set(Image.registered_extensions().values())),
)
"""The formats that are decoded. Formats that contain programs, such as EPS, are not among them."""

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
"""The texts in a PNG may take 64 MiB in all; Pillow refuses images over 1 MiB in one of them, such as a workflow."""

_UNKNOWN = f"not an image in a known format ({', '.join(FORMATS)})"
_GATE = PixelGate()
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}

_hasher = functools.partial(hashlib.blake2b, digest_size=16)


def decode_image(source: str | os.PathLike | bytes | Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Decodes an image as RGB; see `loading.load_image`."""
    name = describe(source)
    with _named(source):
        if isinstance(source, Image.Image):
            return _to_rgb(source, name, max_pixels)
        with open_media(source) as file, Image.open(file, formats=FORMATS) as image:
            return _to_rgb(image, name, max_pixels)


def upright_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """(width, height) in pixels of an image file, upright as its EXIF data say; only its header is read.

    Raises:
      MediaError: it cannot be read.
    """
    with _named(source), open_media(source) as file, Image.open(file, formats=FORMATS) as image:
        return oriented_size(image)


@contextlib.contextmanager
def _named(source: str | os.PathLike | bytes | Image.Image) -> Iterator[None]:
    """Turns every error of the body, which decodes an image, into a `MediaError` that begins with its name."""
    name = describe(source)
    try:
        yield
    except UnidentifiedImageError:
        with open_media(source) as file:
            known = mistaken_for_medium(file.read(START))
        raise MediaError(f"{name}: {known or _UNKNOWN}") from None
    except MediaError:
        raise
    except Image.DecompressionBombError:
        raise MediaError(f"{name}: has far more pixels than the limit of {media_settings().max_pixels:,}") from None
    except PixelError as error:
        raise MediaError(f"{name}: {error}") from None
    except Exception as error:  # decoders raise errors of many classes for broken files; none of them names the file
        if "MAX_TEXT_CHUNK" in str(error) or "text chunks" in str(error):
            most = PngImagePlugin.MAX_TEXT_MEMORY >> 20
            raise MediaError(f"{name}: it holds more than {most} MiB of text: save the image without it") from None
        if "truncated" in str(error) or isinstance(error, EOFError):
            raise MediaError(
                f"{name}: the image cannot be decoded: it is truncated; copy it anew; training takes it as it is with"
                " --config.media.truncated=True"
            ) from error
        raise MediaError(f"{name}: the image cannot be decoded: it is damaged; copy it anew") from error


class VideoFile:
    """A video file that is open for reading; frames are decoded in a child process, see `video.pool`.

    Args:
      source: a path, or the bytes of a file.

    Attributes:
      name: names the video in error messages.
      total: number of frames.
      fps: frames in a second.
      size: (width, height) of its frames.

    Raises:
      MediaError: the file cannot be read, is no video, has no frames, or its frames are larger than
        `MediaSettings.max_pixels`.
    """

    def __init__(self, source: str | os.PathLike | bytes):
        self.name = describe(source)
        self._file = open_video(source)
        settings = media_settings()
        try:
            self._index: VideoIndex = decoders(int(settings.video_memory * 2**30)).index(
                self._file.fileno(), settings.max_pixels, settings.video_seconds
            )
        except VideoError as error:
            known = mistaken_for_medium(os.pread(self._file.fileno(), START, 0))
            raise MediaError(f"{self.name}: {known or f'the video {error}'}") from None
        self.total, self.fps, self.size = len(self._index.times), self._index.rate, self._index.size

    def sample(self, count: int, fps: float | None, rate: float) -> list[int]:
        """The indices of the frames to take, spread evenly over the video.

        Args:
          count: the most frames.
          fps: frames to take in a second, in place of `rate`; None for `rate`.
          rate: see `sample_video`.

        Raises:
          MediaError: `fps` is not positive.
        """
        if fps is not None and not 0 < fps < math.inf:
            raise MediaError(f"{self.name}: fps must be positive, got {fps}")
        return sample_video(self.total, self.fps, count, rate if fps is None else fps)

    def frame(self, index: int) -> Image.Image:
        """The RGB frame with this index, from 0."""
        [frame] = self.frames([index])
        return frame

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """The RGB frames with these indices, which ascend; all but the one that was yielded last are still to decode.

        Raises:
          MediaError: one cannot be decoded.
        """
        settings = media_settings()
        wanted = [(index, self._index.times[index], self._key_before(self._index.times[index])) for index in indices]
        pool = decoders(int(settings.video_memory * 2**30))
        try:
            for raw in pool.read(self._file.fileno(), wanted, settings.max_pixels, settings.video_seconds):
                frame = _upright(raw)
                if frame.size != self.size:
                    raise MediaError(f"{self.name}: the video changes its size: {REENCODE}")
                yield frame
        except VideoError as error:
            raise MediaError(f"{self.name}: the video {error}") from None

    def times(self, indices: Sequence[int]) -> tuple[float, ...]:
        """The times of frames, in seconds from the first one."""
        return self.clock(indices)

    @property
    def clock(self) -> Callable[[Sequence[int]], tuple[float, ...]]:
        """Does what `times` does, without the file, which may be closed."""
        return functools.partial(_times, self._index)

    def _key_before(self, time: int) -> int | None:
        keys = self._index.keys
        return keys[max(bisect.bisect_right(keys, time) - 1, 0)] if keys else None


def _times(index: VideoIndex, frames: Sequence[int]) -> tuple[float, ...]:
    return tuple((index.times[frame] - index.times[0]) * index.tick for frame in frames)


def file_digest(source: str | os.PathLike | bytes) -> str:
    """A hash of the bytes of a file, in hexadecimal.

    Raises:
      MediaError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return digest(source)
    with open_media(source) as file:
        try:
            return hashlib.file_digest(file, _hasher).hexdigest()
        except OSError as error:
            raise MediaError(f"{describe(source)}: cannot be read ({error.strerror})") from error


def digest(data: bytes) -> str:
    """A hash of bytes, in hexadecimal."""
    return _hasher(data).hexdigest()


def sample_indices(total: int, count: int) -> list[int]:
    """`count` indices spread evenly over range(total), the first and the last included; all if `count` is not less."""
    if total <= count:
        return list(range(total))
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def sample_video(total: int, fps: float, count: int, rate: float) -> list[int]:
    """The `sample_indices` of a video of `total` frames at `fps` frames in a second.

    It takes `count` frames, or `rate` frames in a second of video if these are fewer. A rate of 0 takes `count`.
    """
    return sample_indices(total, min(count, max(1, round(total / fps * rate))) if rate else count)


def _to_rgb(image: Image.Image, name: str, max_pixels: int | None) -> Image.Image:
    most, pixels = media_settings().max_pixels, image.width * image.height
    limit = most if max_pixels is None else max_pixels
    if pixels > limit:
        raise MediaError(f"{name}: {image.width}x{image.height} pixels are more than the limit of {limit:,}")
    if pixels < 1:
        raise MediaError(f"{name}: the image has no pixels")
    with _GATE.room(pixels, most):
        image.load()
        return upright_rgb(image)


def _upright(raw: Frame) -> Image.Image:
    """A frame as it is to be shown."""
    frame = Image.frombuffer("RGB", raw.size, raw.pixels, "raw", "RGB", 0, 1)
    turn = _TURNS.get(round(raw.rotation / 90) * 90 % 360)
    return frame if turn is None else frame.transpose(turn)
