"""Where media come from: what may be read, how large it may be, and the one way in which their files are opened."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.files import as_path, is_remote, resolve_inside
from pixel_reasoner_jax.model_files import POINTER

MAX_NAME = 300  # characters of a path in a message; what is longer is no path but data
START = 512  # bytes by which `mistaken_for_medium` knows a file


class MediaError(UserError):
    """An image or video that cannot be used; the message names it."""


@dataclasses.dataclass(frozen=True)
class MediaSettings:
    """What this process reads of media: the section `media` of an experiment.

    Attributes:
      root: the folder that paths of media start from, and do not lead out of; None reads any file.
      max_pixels: an image or a frame with more pixels is refused before it is decoded: a small file can hold gigabytes
        of them. So many are decoded at once, over all threads.
      truncated: take images whose end is missing, with grey in its place.
      video_seconds: by the clock that decoding a video may take.
      video_memory: GiB that decoding a video may take.
    """

    root: str | None = None
    max_pixels: int = 80_000_000
    truncated: bool = False
    video_seconds: float = 120.0
    video_memory: float = 4.0


_settings = MediaSettings()


def media_settings() -> MediaSettings:
    """The settings that hold in this process."""
    return _settings


def use_media_settings(settings: MediaSettings | Mapping[str, Any], quiet: bool = False) -> None:
    """Sets what this process reads from now on, and says on standard error what has changed, unless it is `quiet`.

    Raises:
      UserError: the root is no folder.
    """
    global _settings
    settings = settings if isinstance(settings, MediaSettings) else MediaSettings(**settings)
    if settings.root is not None and not as_path(settings.root).is_dir():
        raise UserError(f"the root of media (media.root, --media-root) is {settings.root}, which is no folder")
    now, before = dataclasses.asdict(settings), dataclasses.asdict(_settings)
    changed = [f"{name} = {value}" for name, value in now.items() if value != before[name]]
    if changed and not quiet:
        print("media:", ", ".join(changed), file=sys.stderr, flush=True)
    _settings = settings
    ImageFile.LOAD_TRUNCATED_IMAGES = settings.truncated
    Image.MAX_IMAGE_PIXELS = max(settings.max_pixels, MediaSettings.max_pixels)  # ours is checked first


def describe(source: object) -> str:
    """A name for error messages: the path where there is one, and never the data."""
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<PIL image {source.mode} {source.width}x{source.height}>"
    if isinstance(source, bytes | bytearray | memoryview | Mapping | list | tuple):
        if not isinstance(source, FileContent):
            return shown(source)
        source = source.path
    name = str(source)
    return shown(name) if name[:5].lower() == "data:" or len(name) > MAX_NAME or not name.isprintable() else name


def open_media(source: str | os.PathLike | bytes) -> BinaryIO:
    """The file of a medium, open for reading.

    What is no regular file is not opened: a pipe or a device may have no end, or nothing to read for ever.

    Args:
      source: a path, which `MediaSettings.root` confines, or the bytes of a file.

    Raises:
      MediaError: there is no such file, it is none, or it lies outside the root.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    name = describe(source)
    path = located(source)
    try:
        if is_remote(path):
            return io.BytesIO(path.read_bytes())
        _check_regular(os.stat(path), name)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if _settings.root is not None else 0)
        file = os.fdopen(os.open(path, flags), "rb")
        with contextlib.ExitStack() as stack:
            stack.callback(file.close)
            _check_regular(os.fstat(file.fileno()), name)
            stack.pop_all()
        return file
    except FileNotFoundError:
        raise MediaError(f"{name}: no such file") from None
    except MediaError:
        raise
    except PermissionError:
        raise MediaError(f"{name}: no permission to read it") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


class FileContent(bytes):
    """The bytes of a file that messages name by its path."""

    path: str


def read_media(source: str | os.PathLike | bytes) -> bytes:
    """The bytes of a medium's file, which messages name by its path; errors as of `open_media`."""
    if isinstance(source, bytes):
        return source
    with open_media(source) as file:
        content = FileContent(file.read())
    content.path = os.fspath(source)
    return content


def mistaken_for_medium(start: bytes) -> str | None:
    """What a file is that was taken for an image or a video, and what to do; None where that is not known.

    Args:
      start: its first bytes, `START` of them if it has so many.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return "the file is empty: copy it anew"
    if start.startswith(POINTER):
        return "it is a Git LFS pointer, not the file that it points to: run `git lfs pull` where it comes from"
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, such as a server sends in place of a file that it does not give: download it anew"
    if not start.strip(b"\0"):
        return "it begins with zeros, as a file that was never written to its end: copy it anew"
    return None


def open_video(source: str | os.PathLike | bytes) -> BinaryIO:
    """Like `open_media`, but the file has a descriptor that can be handed to another process."""
    if not isinstance(source, bytes) and not is_remote(located(source)):
        return open_media(source)
    file = os.fdopen(os.memfd_create("video"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()
    data = source if isinstance(source, bytes) else open_media(source).getbuffer()
    file.write(data)
    file.flush()
    return file


def located(source: str | os.PathLike) -> os.PathLike:
    """The path of a medium, within `MediaSettings.root` if there is one.

    Raises:
      MediaError: it leads out of the root, or into an object store that is not supported.
    """
    try:
        return as_path(source) if _settings.root is None else resolve_inside(source, _settings.root)
    except (UserError, ValueError, OSError) as error:
        raise MediaError(str(error).replace(os.fspath(source), describe(source))) from None


def _check_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
        raise MediaError(f"{name}: is a {kind}, no file with an image or a video")
