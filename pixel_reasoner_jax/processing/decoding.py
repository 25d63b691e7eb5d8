"""Decodes files: RGB images and the frames of videos. A file that cannot be read is a `MediaError` that names it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.files import as_path, is_remote

MAX_PIXELS = 80_000_000
"""An image with more pixels is refused before it is decoded: a small file can hold gigabytes of them."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""The formats that are decoded. Formats that contain programs, such as EPS, are not among them."""

MAX_NAME = 1024  # characters of a path in a message; what is longer is no path but data

_ORIENTATION = 0x0112  # EXIF

_hasher = functools.partial(hashlib.blake2b, digest_size=16)


class MediaError(UserError):
    """An image or video that cannot be used; the message names it."""


def decode_image(source: str | os.PathLike | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image as RGB; see `loading.load_image`."""
    name = describe(source)
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, name, max_pixels)
        with Image.open(_file(source), formats=FORMATS) as image:
            return _to_rgb(image, name, max_pixels)
    except FileNotFoundError:
        raise MediaError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise MediaError(f"{name}: not an image in a known format ({', '.join(FORMATS)})") from None
    except MediaError:
        raise
    except Exception as error:  # decoders raise errors of many classes for broken files; none of them names the file
        raise MediaError(f"{name}: the image cannot be decoded ({type(error).__name__}: {error})") from error


class VideoFile:
    """A video file that is open for reading (with decord); frames are decoded one by one.

    Args:
      source: a path, or the bytes of a file.

    Attributes:
      name: names the video in error messages.
      total: number of frames.
      fps: frames in a second.

    Raises:
      MediaError: the file cannot be read, has no frames, or its frames are larger than `MAX_PIXELS`.
    """

    def __init__(self, source: str | os.PathLike | bytes):
        import decord  # a shared library of some size, needed for video files alone

        self.name = describe(source)
        with self._errors_named():
            if not isinstance(source, bytes) and not as_path(source).is_file():
                raise MediaError(f"{self.name}: no such file")
            self._reader = decord.VideoReader(_file(source))
            self.total = len(self._reader)
            if self.total == 0:
                raise MediaError(f"{self.name}: the video has no frames")
            height, width = self._reader[0].shape[:2]
            self.fps = float(self._reader.get_avg_fps())
        if height * width > MAX_PIXELS:
            raise MediaError(
                f"{self.name}: frames of {width}x{height} pixels are more than the limit of {MAX_PIXELS:,}"
            )
        if not 0 < self.fps < float("inf"):
            raise MediaError(f"{self.name}: the video's frame rate is {self.fps}")

    def frame(self, index: int) -> Image.Image:
        """The RGB frame with this index, from 0."""
        with self._errors_named():
            return Image.fromarray(self._reader[index].asnumpy())

    def times(self, indices: list[int]) -> tuple[float, ...]:
        """The times of frames, in seconds from the start of the video."""
        with self._errors_named():
            return tuple(map(float, self._reader.get_frame_timestamp(indices)[:, 0]))

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except MediaError:
            raise
        except Exception as error:  # decord raises its own class and RuntimeError alike
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise MediaError(f"{self.name}: the video cannot be decoded or has no frames ({reason})") from error


def file_digest(source: str | os.PathLike | bytes) -> str:
    """A hash of the bytes of a file, in hexadecimal.

    Raises:
      MediaError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return digest(source)
    try:
        with as_path(source).open("rb") as file:
            return hashlib.file_digest(file, _hasher).hexdigest()
    except FileNotFoundError:
        raise MediaError(f"{describe(source)}: no such file") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{describe(source)}: cannot be read ({type(error).__name__}: {error})") from error


def _file(source: str | os.PathLike | bytes) -> str | io.BytesIO:
    """The source as decoders open it: a local path, or a file in memory for bytes and object stores."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return io.BytesIO(as_path(source).read_bytes()) if is_remote(source) else os.fspath(source)


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


def describe(source: object) -> str:
    """A name for error messages: the path where there is one, and never the data."""
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<PIL image {source.mode} {source.width}x{source.height}>"
    if isinstance(source, bytes | bytearray | memoryview | Mapping | list | tuple):
        return shown(source)
    name = str(source)
    return shown(name) if name[:5].lower() == "data:" or len(name) > MAX_NAME else name


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise MediaError(f"{name}: {image.width}x{image.height} pixels are more than the limit of {max_pixels:,}")
    if image.width < 1 or image.height < 1:
        raise MediaError(f"{name}: the image has no pixels")
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # PIL's own conversion would clip at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise MediaError(f"{name}: grey values beyond 16 bits are not supported")
        # Mode "I", unlike "I;16", does not tell the number of bits: if all values fit into 8 bits, these are assumed.
        unit = 1 if image.mode == "I" and values.max() <= 0xFF else 257
        image = Image.fromarray((values.astype(np.uint32) // unit).astype(np.uint8))
    if image.mode == "F":
        raise MediaError(f"{name}: floating-point pixels are not supported")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
