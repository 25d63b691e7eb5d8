"""Loads images and videos, decoding them at once: from files, bytes, lists, PIL images and pictures."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from PIL import Image

from pixel_reasoner_jax.processing.decoding import VideoFile, decode_image
from pixel_reasoner_jax.processing.pictures import Picture
from pixel_reasoner_jax.processing.videos import Clip, Video, sample_frames

ImageSource = str | os.PathLike | bytes | Image.Image | Picture


def load_image(source: ImageSource, max_pixels: int | None = None) -> Image.Image:
    """Reads an image as RGB: upright (EXIF orientation applied), on white where it is transparent, 8 bits a channel.

    Args:
      source: a path, the bytes of a file, a PIL image (returned as it is when it needs no change) or a `Picture`.
      max_pixels: the largest width times height that is decoded; None for `MediaSettings.max_pixels`.

    Raises:
      MediaError: the image cannot be read, is truncated, too large, or of an unknown pixel format.
    """
    return source.load() if isinstance(source, Picture) else decode_image(source, max_pixels)


def load_video(
    source: str | os.PathLike | bytes | Sequence[ImageSource] | Video,
    count: int = 16,
    fps: float | None = None,
    rate: float = 0.0,
) -> Video:
    """Samples frames evenly over a video; takes all frames if it has fewer than asked for.

    Args:
      source: a file, its bytes, or a list of frames, each as `load_image` takes it; a `Video` is
        returned as it is.
      count: frames to take.
      fps: for a list, the number of its frames in a second; 2 unless given. A file tells its frame rate itself: for
        one, the frames to take in a second, in place of `rate`.
      rate: frames to take in a second of video, `count` at most; 0: `count`, however long the video is.

    Raises:
      MediaError: the video cannot be read, has no frames, frames of different sizes, or frames that are too large.
    """
    if isinstance(source, Video):
        return source
    if not isinstance(source, str | os.PathLike | bytes):
        return sample_frames(source, count, fps, load_image, rate)
    file = VideoFile(source)
    chosen = file.sample(count, fps, rate)
    clip = Clip(file.total, file.fps, file.clock, tuple(chosen), functools.partial(_frames, source))
    return Video(list(file.frames(chosen)), file.times(chosen), file.fps * len(chosen) / file.total, clip)


def _frames(source: str | os.PathLike | bytes, indices: Sequence[int]) -> list[Image.Image]:
    return list(VideoFile(source).frames(indices))
