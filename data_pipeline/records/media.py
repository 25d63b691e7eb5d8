"""The media of a record: each stored once, in the record, in an earlier one of its shard, or as a path."""

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

MediaSource = Image.Image | Picture | bytes | str | os.PathLike

HERE = -1  # in the place of the record that holds an entry's bytes


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file among a record's media.

    Attributes:
      kind: "image" or "video".
      data: its bytes; empty where it is a path, or another record holds them.
      path: where it lies; "" unless it is stored as a path.
      digest: of its bytes; "" for a path.
      record: the record of the shard that holds the bytes; `HERE` if it is this one.
    """

    kind: str
    data: bytes = b""
    path: str = ""
    digest: str = ""
    record: int = HERE


class MediaTable:
    """Collects the media of one record.

    Args:
      held: which record of the shard holds the bytes of a digest, for all records before this one.
    """

    def __init__(self, held: Mapping[str, int]):
        self.entries: list[Entry] = []
        self._held = held
        self._numbers: dict[Entry, int] = {}

    def image(self, source: MediaSource) -> int:
        """The number of an image: encoded losslessly, or a file, kept as bytes or as a path."""
        return self._add("image", source)

    def video(self, source: Any) -> list[int]:
        """The numbers of a video's frames, or the one of its file."""
        return [self.image(frame) for frame in source] if isinstance(source, list | tuple) else [self._file(source)]

    def _file(self, source: Any) -> int:
        if not isinstance(source, bytes | str | os.PathLike):
            raise UserError(
                f"a video is stored from a file, its bytes or a list of frames, not {type(source).__name__}"
            )
        return self._add("video", source)

    def _add(self, kind: str, source: MediaSource) -> int:
        image = source.load() if isinstance(source, Picture) else source
        data = png(image) if isinstance(image, Image.Image) else image
        if isinstance(data, bytes):
            name = digest(data)
            earlier = self._held.get(name, HERE)
            entry = Entry(kind, data if earlier == HERE else b"", digest=name, record=earlier)
        else:
            entry = Entry(kind, path=os.fspath(data))
        if entry not in self._numbers:
            self._numbers[entry] = len(self.entries)
            self.entries.append(entry)
        return self._numbers[entry]


class StoredMedia:
    """The media of a record that was read: bytes of files, and paths.

    Args:
      entries: as they were stored.
      find: (record of the shard, digest) to the bytes.
    """

    def __init__(self, entries: list[Entry], find: Callable[[int, str], bytes]):
        self._kinds = [entry.kind for entry in entries]
        self._files = [
            entry.path or (entry.data if entry.record == HERE else find(entry.record, entry.digest))
            for entry in entries
        ]

    def image(self, number: int) -> bytes | str:
        return self._files[number]

    def video(self, numbers: list[int]) -> Any:
        """What `MediaTable.video` was given: a file, or a list of frames."""
        if [self._kinds[number] for number in numbers] == ["video"]:
            return self._files[numbers[0]]
        return [self._files[number] for number in numbers]


def png(image: Image.Image) -> bytes:
    """The file that an image is stored as."""
    buffer = io.BytesIO()
    # The fastest level that compresses: higher ones cost several times as much and save little.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
