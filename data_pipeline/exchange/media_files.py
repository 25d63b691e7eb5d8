"""Reads the media that rows of a table name, checks that they can be decoded, and gives their bytes or paths."""

from __future__ import annotations

import base64
import binascii
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.files import as_path, is_remote
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.processing.decoding import VideoFile, decode_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v")


class MediaFiles:
    """Reads media in the forms that rows have: paths, file:// and data: URLs, bytes, mappings with `bytes` or `path`.

    Args:
      root: the folder that relative paths start from; None leaves them as they are.
      keep_paths: return the paths of files instead of their bytes.
    """

    def __init__(self, root: str | os.PathLike | None = None, keep_paths: bool = False):
        self._root = None if root is None else as_path(root)
        self._keep_paths = keep_paths

    def image(self, source: Any) -> bytes | str:
        """The bytes or the path of an image, which is decoded once as a check.

        Raises:
          MediaError: the image is missing or cannot be decoded.
        """
        found = self._resolve(source)
        decode_image(found)
        return self._stored_form(found)

    def video(self, source: Any) -> bytes | str | list[bytes | str]:
        """A video as one file (`source` may be a list of one), of which one frame is decoded, or as a list of images.

        Raises:
          MediaError: the video is missing or cannot be decoded.
        """
        if isinstance(source, list | tuple):
            if not source:
                raise MediaError("a video without frames")
            if len(source) > 1 or not _is_video(source[0]):
                return [self.image(frame) for frame in source]
            source = source[0]
        found = self._resolve(source)
        VideoFile(found)
        return self._stored_form(found)

    def _resolve(self, source: Any) -> bytes | str:
        if isinstance(source, Mapping):
            source = source.get("bytes") or source.get("path")
        if isinstance(source, bytes):
            return source
        if not isinstance(source, str) or not source:
            raise MediaError(f"an image or video is a path, an URL or bytes, not {source!r:.80}")
        if source.startswith("data:"):
            try:
                return base64.b64decode(source.partition(",")[2], validate=True)
            except binascii.Error as error:
                raise MediaError(f"{source[:40]}…: not base64 ({error})") from None
        if source.startswith(("http://", "https://")):
            raise MediaError(f"{source}: nothing is downloaded; put the file beside the data")
        source = source.removeprefix("file://")
        if self._root is None or is_remote(source) or pathlib.PurePath(source).is_absolute():
            return source
        return os.fspath(self._root / source)

    def _stored_form(self, found: bytes | str) -> bytes | str:
        return found if isinstance(found, bytes) or self._keep_paths else as_path(found).read_bytes()


def _is_video(source: Any) -> bool:
    path = source.get("path") if isinstance(source, Mapping) else source
    return isinstance(path, str) and path.lower().endswith(VIDEO_SUFFIXES)
