"""What adapters share: reading annotations so that an error names the file and the entry, and boxes in pixels."""

from __future__ import annotations

import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from data_pipeline.seed import NormalizedBox, Seed
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path

SeedSource = Sequence[Seed]

_MAX_NUMBER = 1e12
"""No coordinate, time or count is near it; NaN is not below it."""

_ORIENTATION = 0x0112  # EXIF


class SourceError(UserError):
    """A file or an entry that cannot be read as a source's; the message names both."""


class SourceEntry:
    """One annotation, a JSON object, and where it stands.

    Args:
      value: what was read.
      place: file and line or number, for messages.
      folder: where relative paths start.
    """

    def __init__(self, value: Any, location: str, folder: os.PathLike | str):
        self.location, self.folder = location, as_path(folder)
        if not isinstance(value, Mapping):
            raise self.error(f"expected a JSON object, got {type(value).__name__}")
        self.value = value

    def error(self, problem: str) -> SourceError:
        return SourceError(f"{self.location}: {problem}")

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """A field of a type; without a default it must be there. A bool is no number."""
        value = self.value.get(name)
        if value is None:
            if default is ...:
                raise self.error(f"{name!r} is missing; there are {', '.join(map(str, self.value)) or 'no fields'}")
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(one.__name__ for one in kinds)
            raise self.error(f"{name!r} is {type(value).__name__}, expected {wanted}")
        return value

    def text(self, name: str, default: Any = ...) -> str:
        """A field that says something."""
        text = self.get(name, str, default)
        if isinstance(text, str) and not text.strip():
            raise self.error(f"{name!r} is empty")
        return text

    def answer(self, name: str = "answer") -> str | list[str]:
        """An answer, or several that are accepted: texts or numbers."""
        value = self.get(name, (str, int, float, list))
        answers = [str(item).strip() for item in value] if isinstance(value, list) else [str(value).strip()]
        if not answers or not all(answers):
            raise self.error(f"{name!r} is empty")
        answers = list(dict.fromkeys(answers))
        return answers[0] if len(answers) == 1 else answers

    def numbers(self, name: str, count: int | None = None) -> list[float]:
        """A list of finite numbers."""
        return self._finite(name, self.get(name, list), count)

    def _finite(self, name: str, values: Any, count: int | None) -> list[float]:
        if not isinstance(values, list | tuple) or not all(
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER
            for value in values
        ):
            raise self.error(f"{name!r} is {values!r:.80}, expected a list of numbers")
        if count is not None and len(values) != count:
            raise self.error(f"{name!r} has {len(values)} numbers, expected {count}")
        return list(values)

    def path(self, name: str, default: Any = ...) -> pathlib.Path:
        """A file that is there; a relative path starts in the annotation's folder."""
        relative = self.text(name, default)
        try:
            path = as_path(relative) if "://" in relative else self.folder / relative
            there = path.is_file()
        except Exception as error:  # a name that no file can have, or an address that nothing reads; clients differ
            raise self.error(f"{name!r}: {error}") from None
        if not there:
            raise self.error(f"{name!r}: there is no file {path}")
        return path

    def image(self, path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
        """An image file's bytes, kept as they are, and its (width, height) when it is upright."""
        try:
            data = path.read_bytes()
            return data, upright_size(data)
        except Exception as error:  # PIL's decoders fail in many ways, and object stores
            raise self.error(f"{path} cannot be read as an image ({error})") from error

    def box(self, name: str, size: tuple[int, int], value: Any = None) -> NormalizedBox:
        """A box [left, top, right, bottom] as shares of the image; in pixels if any of its numbers is above 1."""
        numbers = self._finite(name, self.value.get(name) if value is None else value, 4)
        left, top, right, bottom = numbers
        if max(numbers) > 1:
            width, height = size
            left, top, right, bottom = left / width, top / height, right / width, bottom / height
        return self.inside(name, (left, top, right, bottom))

    def inside(self, name: str, box: NormalizedBox) -> NormalizedBox:
        """The part of a box, in shares of the image, that lies in it."""
        left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in box)
        if left >= right or top >= bottom:
            raise self.error(f"{name!r} is empty, inverted or outside the image")
        return left, top, right, bottom


def upright_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded image as it is meant to be seen; only its header is read."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)


class LineReader(Sequence):
    """The objects of a file of JSON lines, found by offset and read one at a time.

    Blank lines are passed over; a line that is not JSON is an error when it is asked for.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = as_path(path)
        if not self.path.is_file():
            raise SourceError(f"{self.path}: no such file")
        self._lines: list[tuple[int, int]] = []  # line number and offset
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._lines.append((number, offset))
                offset += len(line)
        if not self._lines:
            raise SourceError(f"{self.path}: no lines in it")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> SourceEntry:
        number, offset = self._lines[index]
        location = f"{self.path}, line {number}"
        with self.path.open("rb") as file:
            file.seek(offset)
            line = file.readline()
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{location}: not JSON ({error})") from None
        return SourceEntry(value, location, self.path.parent)


def read_json(path: str | os.PathLike) -> Any:
    """A whole JSON file.

    Raises:
      SourceError: it is not there or not JSON; the message names it.
    """
    path = as_path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: not JSON ({error})") from None


class ListReader(Sequence):
    """The objects of a JSON file that holds a list of them, itself or under `name` of its object."""

    def __init__(self, path: str | os.PathLike, name: str | None = None):
        self.path = as_path(path)
        value = read_json(path)
        if isinstance(value, Mapping) and name is not None:
            value = value.get(name)
        if not isinstance(value, list) or not value:
            where = f", itself or under {name!r}" if name else ""
            raise SourceError(f"{path}: expected a list of objects{where}, and at least one")
        self._values = value

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> SourceEntry:
        return SourceEntry(self._values[index], f"{self.path}, entry {index}", self.path.parent)
