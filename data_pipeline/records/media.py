"""The media of a record: each file is stored in the record, in an earlier record of its shard, or as a path."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Picture
from pixel_reasoner_jax.processing.decoding import digest
from pixel_reasoner_jax.processing.sources import located

MediaSource = Image.Image | Picture | bytes | str | os.PathLike

THIS_RECORD = -1  # `MediaEntry.record` of a file that the record itself holds


@dataclasses.dataclass(frozen=True)
class MediaEntry:
    """One file among a record's media: a row of the column `media`.

    Attributes:
      kind: "image" or "video".
      data: the file's bytes; empty if it is stored as a path, or in another record.
      path: the file's path; empty unless it is stored as a path.
      digest: of the bytes; empty for a path.
      record: index in the shard of the record that holds the bytes; `THIS_RECORD` if this one does.
    """

    kind: str
    data: bytes = b""
    path: str = ""
    digest: str = ""
    record: int = THIS_RECORD


class MediaTable:
    """Collects the media of one record.

    Args:
      stored_in: the digest of every file in earlier records of the shard, with the index of the record that holds it.
    """

    def __init__(self, stored_in: Mapping[str, int]):
        self.entries: list[MediaEntry] = []
        self._stored_in = stored_in
        self._numbers: dict[MediaEntry, int] = {}

    def image(self, source: MediaSource) -> int:
        """Adds an image and returns its number: pixels are stored as PNG, files as they are, paths as paths."""
        return self._add("image", source)

    def video(self, source: Any) -> list[int]:
        """Adds a video and returns the numbers of its frames, or the one number of its file."""
        return [self.image(frame) for frame in source] if isinstance(source, list | tuple) else [self._file(source)]

    def _file(self, source: Any) -> int:
        if not isinstance(source, bytes | str | os.PathLike):
            raise UserError(
                f"a video is stored from a file, its bytes or a list of frames, not {type(source).__name__}"
            )
        return self._add("video", source)

    def _add(self, kind: str, source: MediaSource) -> int:
        image = source.load() if isinstance(source, Picture) else source
        data = encode_png(image) if isinstance(image, Image.Image) else image
        if isinstance(data, bytes):
            name = digest(data)
            earlier = self._stored_in.get(name, THIS_RECORD)
            entry = MediaEntry(kind, data if earlier == THIS_RECORD else b"", digest=name, record=earlier)
        else:
            entry = MediaEntry(kind, path=os.fspath(data))
        if entry not in self._numbers:
            self._numbers[entry] = len(self.entries)
            self.entries.append(entry)
        return self._numbers[entry]


class StoredMedia:
    """The media of a record that was read: bytes of files, and paths, which do not lead out of `MediaSettings.root`.

    Args:
      entries: as they were stored.
      find: see `examples.FindFile`.

    Raises:
      MediaError: a path leads out of the root.
    """

    def __init__(self, entries: list[MediaEntry], find: Callable[[int, str], bytes]):
        self._kinds = [entry.kind for entry in entries]
        self._files = [
            os.fspath(located(entry.path))
            if entry.path
            else (entry.data if entry.record == THIS_RECORD else find(entry.record, entry.digest))
            for entry in entries
        ]

    def image(self, number: int) -> bytes | str:
        return self._files[number]

    def video(self, numbers: list[int]) -> Any:
        """A video as `MediaTable.video` was given it: one file, or a list of frames."""
        if [self._kinds[number] for number in numbers] == ["video"]:
            return self._files[numbers[0]]
        return [self._files[number] for number in numbers]


def encode_png(image: Image.Image) -> bytes:
    """An image as the PNG file that is stored."""
    buffer = io.BytesIO()
    # The fastest level that compresses: higher ones cost several times as much and save little.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
