"""Reading images and videos from files, bytes and lists; whatever cannot be read is a `MediaError` that names it."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ImageSource = str | os.PathLike | bytes | Image.Image

MAX_PIXELS = 80_000_000
"""An image with more pixels is refused before it is decoded: a small file can hold gigabytes of them."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""What is decoded; formats that run programs of their own, such as EPS, are not among them."""

LIST_FPS = 2.0
"""The sampling rate assumed for a video given as a list of frames without one (Qwen2.5-VL's own default)."""

_ORIENTATION = 0x0112  # EXIF


class MediaError(ValueError):
    """An image or video that cannot be used; the message names it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """Frames sampled from a video.

    Attributes:
      frames: RGB images of one size.
      times: the time of each frame, in seconds from the start.
      fps: sampled frames in a second of video.
    """

    frames: list[Image.Image]
    times: tuple[float, ...]
    fps: float


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads an image as RGB: upright (EXIF orientation applied), on white where it is transparent, 8 bits a channel.

    Args:
      source: a path, the bytes of a file, or a PIL image (returned as it is when it needs no change).
      max_pixels: the largest width times height that is decoded.

    Raises:
      MediaError: not readable, truncated, too large, or of an unknown pixel format.
    """
    name = describe(source)
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, name, max_pixels)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            return _to_rgb(image, name, max_pixels)
    except FileNotFoundError:
        raise MediaError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise MediaError(f"{name}: not an image in a known format ({', '.join(FORMATS)})") from None
    except MediaError:
        raise
    except Exception as error:  # decoders meet broken files with errors of many kinds; none of them names the file
        raise MediaError(f"{name}: the image cannot be decoded ({type(error).__name__}: {error})") from error


def load_video(
    source: str | os.PathLike | bytes | Sequence[ImageSource] | Video, count: int = 16, fps: float | None = None
) -> Video:
    """Samples `count` frames evenly over a video, or all of them if it has fewer.

    Args:
      source: a file (read with decord), its bytes, or a list of frames (paths, bytes or PIL images).
      count: frames to take.
      fps: for a list, how many of its frames make a second; 2 unless given. A file knows its own.

    Raises:
      MediaError: not readable, without frames, frames of different sizes, or too large.
    """
    if isinstance(source, Video):
        return source
    if isinstance(source, str | os.PathLike | bytes):
        return _load_video_file(source, count)
    if not len(source):
        raise MediaError("video given as a list: it has no frames")
    rate = LIST_FPS if fps is None else float(fps)
    if not 0 < rate < float("inf"):
        raise MediaError(f"video given as a list of {len(source)} frames: fps must be positive, got {fps}")
    chosen = sample_indices(len(source), count)
    frames = [load_image(source[index]) for index in chosen]
    for index, frame in zip(chosen, frames, strict=True):
        if frame.size != frames[0].size:
            raise MediaError(
                f"{describe(source[index])}: frame {index + 1} is {frame.width}x{frame.height} pixels,"
                f" the first one {frames[0].width}x{frames[0].height}"
            )
    return Video(frames, tuple(index / rate for index in chosen), rate * len(chosen) / len(source))


def sample_indices(total: int, count: int) -> list[int]:
    """`count` indices spread evenly over range(total), first and last included; all of them if total is not larger."""
    if total <= count:
        return list(range(total))
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def describe(source: object) -> str:
    """A name for error messages: the path where there is one."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<PIL image {source.mode} {source.width}x{source.height}>"
    return str(source)


def _load_video_file(source: str | os.PathLike | bytes, count: int) -> Video:
    import decord  # a shared library of some size, needed for video files alone

    name = describe(source)
    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise MediaError(f"{name}: no such file")
    try:
        reader = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source))
        total = len(reader)
        if total == 0:
            raise MediaError(f"{name}: the video has no frames")
        height, width = reader[0].shape[:2]
        if height * width > MAX_PIXELS:
            raise MediaError(f"{name}: frames of {width}x{height} pixels are more than the limit of {MAX_PIXELS:,}")
        chosen = sample_indices(total, count)
        pixels = reader.get_batch(chosen).asnumpy()
        times = reader.get_frame_timestamp(chosen)[:, 0]
        rate = float(reader.get_avg_fps())
    except MediaError:
        raise
    except Exception as error:  # decord raises its own class and RuntimeError alike
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise MediaError(f"{name}: the video cannot be decoded or has no frames ({reason})") from error
    if not 0 < rate < float("inf"):
        raise MediaError(f"{name}: the video's frame rate is {rate}")
    frames = [Image.fromarray(frame) for frame in pixels]
    return Video(frames, tuple(map(float, times)), rate * len(chosen) / total)


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
        # Mode "I" does not tell how many bits the values had, as "I;16" does: small ones are those of 8 bits.
        unit = 1 if image.mode == "I" and values.max() <= 0xFF else 257
        image = Image.fromarray((values.astype(np.uint32) // unit).astype(np.uint8))
    if image.mode == "F":
        raise MediaError(f"{name}: floating-point pixels are not supported")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
