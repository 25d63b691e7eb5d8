"""Finds the media that rows of a table name, inside one folder alone; for an import, reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.files import as_path, is_remote, resolve_inside
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.processing.items import media_source
from pixel_reasoner_jax.processing.sources import describe, read_media

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".ts", ".mpg", ".mpeg")


class MediaFiles:
    """Finds media in the forms that rows have: see `items.media_source`.

    Args:
      root: the folder that relative paths start from, and that no path may lead out of.
    """

    def __init__(self, root: str | os.PathLike):
        self._root = as_path(root)

    def image(self, source: Any) -> bytes | str:
        """The bytes of an image, or the path of its file.

        Raises:
          MediaError: there is no such file, it lies outside the root, or it is a video's.
        """
        found = self._find(source)
        if isinstance(found, str) and found.lower().endswith(VIDEO_SUFFIXES):
            raise MediaError(f"{describe(found)} is a video, given as an image")
        return found

    def video(self, source: Any) -> bytes | str | list[bytes | str]:
        """A video as one file (`source` may be a list of one), or as a list of images.

        Raises:
          MediaError: as `image`; or the video has no frames, or is one image.
        """
        if isinstance(source, list | tuple):
            if not source:
                raise MediaError("a video without frames")
            if len(source) > 1 or not is_video(source[0]):
                return [self.image(frame) for frame in source]
            source = source[0]
        found = self._find(source)
        if isinstance(found, str) and found.lower().endswith(IMAGE_SUFFIXES):
            raise MediaError(f"{describe(found)} is an image, given as a video; the frames of a video are a list")
        return found

    def _find(self, source: Any) -> bytes | str:
        found = media_source(source)
        if isinstance(found, bytes):
            if not found:
                raise MediaError("a medium of 0 bytes")
            return found
        if not isinstance(found, str | os.PathLike):
            raise MediaError(f"an image or video is a path, an URL or bytes, not {shown(source)}")
        try:
            path = resolve_inside(found, self._root)
            # A file in an object store is found when it is read: to ask for each one takes long.
            there = is_remote(path) or path.is_file()
        except UserError as error:
            hint = "import-data takes another folder as --media-root, a run as config.media.root"
            raise MediaError(f"{error}; {hint}") from None
        except (OSError, ValueError) as error:  # a name that no file can have
            raise MediaError(f"{describe(found)}: {getattr(error, 'strerror', None) or error}") from None
        if not there:
            raise MediaError(f"{describe(path)}: {'it is no file' if path.exists() else 'no such file'}")
        return os.fspath(path)


class EmbeddedMedia(MediaFiles):
    """Media given as the bytes of their files; arguments and errors as of `MediaFiles`."""

    def image(self, source: Any) -> bytes:
        return _embedded(super().image(source))

    def video(self, source: Any) -> bytes | list[bytes]:
        found = super().video(source)
        return found if isinstance(found, list) else _embedded(found)  # `image` has embedded the frames of a list


def _embedded(found: bytes | str) -> bytes:
    return found if isinstance(found, bytes) else read_media(found)


def is_video(source: Any) -> bool:
    """Whether a medium is the file of a video, by its name."""
    path = source.get("path") or source.get("url") if isinstance(source, Mapping) else source
    if isinstance(path, str) and path[:11].lower() == "data:video/":
        return True
    return isinstance(path, str) and path.lower().endswith(VIDEO_SUFFIXES)
