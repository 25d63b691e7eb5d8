"""What all sources share: reading entries so that errors name the file and the entry, and normalizing boxes."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.exchange.columns import read_numbers
from data_pipeline.seed import NormalizedBox, Seed
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.files import absolute, as_path
from pixel_reasoner_jax.processing.decoding import upright_size
from pixel_reasoner_jax.processing.items import MAX_PATH
from pixel_reasoner_jax.processing.sources import MediaError, located, media_settings, read_media

SeedSource = Sequence[Seed]


class SourceError(UserError):
    """A file or an entry of a source that cannot be read; the message names it."""


class SourceEntry:
    """One entry of a source: a JSON object and its location. All methods raise `SourceError` for a wrong field.

    Args:
      value: the object.
      location: the file, and the line or number in it, for messages.
      folder: the start of relative paths.
    """

    def __init__(self, value: Any, location: str, folder: os.PathLike | str):
        self.location, self.folder = location, as_path(folder)
        if not isinstance(value, Mapping):
            raise self.error(f"expected a JSON object, got {type(value).__name__}")
        self.value = value

    def part(self, value: Any, name: str = "") -> SourceEntry:
        """An object within this entry, as an entry; `name`, if given, is added to its location."""
        return SourceEntry(value, f"{self.location}, {name}" if name else self.location, self.folder)

    def error(self, problem: str) -> SourceError:
        """An error that names this entry."""
        return SourceError(f"{self.location}: {problem}")

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """The field `name`, of type `kind` (a bool is no number); it must be present unless there is a default."""
        value = self.value.get(name)
        if value is None:
            if default is ...:
                raise self.error(
                    f"{name!r} is missing; there are {', '.join(map(str, self.value))[:200] or 'no fields'}"
                )
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(one.__name__ for one in kinds)
            raise self.error(f"{name!r} is {type(value).__name__}, expected {wanted}")
        return value

    def text(self, name: str, default: Any = ...) -> str:
        """A text field, which must not be blank."""
        text = self.get(name, str, default)
        if isinstance(text, str) and not text.strip():
            raise self.error(f"{name!r} is empty")
        return text

    def answer(self, name: str = "answer") -> str | list[str]:
        """The accepted answer as text, or a list of several; the field may hold texts or numbers."""
        value = self.get(name, (str, int, float, list))
        answers = [str(item).strip() for item in value] if isinstance(value, list) else [str(value).strip()]
        if not answers or not all(answers):
            raise self.error(f"{name!r} is empty")
        answers = list(dict.fromkeys(answers))
        return answers[0] if len(answers) == 1 else answers

    def numbers(self, name: str, count: int | None = None) -> list[float]:
        """A list of finite numbers, of length `count` if that is given."""
        return self._finite(name, self.get(name, list), count)

    def _finite(self, name: str, values: Any, count: int | None) -> list[float]:
        try:
            return read_numbers(count)(values, name)
        except UserError as error:
            raise self.error(str(error)) from None

    def path(self, name: str, default: Any = ...) -> pathlib.Path:
        """The path of an existing file; relative paths start in the entry's folder."""
        relative = self.text(name, default)
        if len(relative) > MAX_PATH:
            raise self.error(f"{name!r} is {shown(relative)}, too long for a path")
        try:
            path = as_path(relative) if "://" in relative else self.folder / relative
            if media_settings().root is not None:
                path = located(absolute(path))
            there = path.is_file()
        except Exception as error:  # a name that no file can have, or an address that nothing reads; clients differ
            raise self.error(f"{name!r}: {error}") from None
        if not there:
            raise self.error(f"{name!r}: there is no file {path}")
        return path

    def image(self, path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
        """The bytes of an image file, and the (width, height) of the upright image in pixels."""
        try:
            data = read_media(path)
        except MediaError as error:
            raise self.error(str(error)) from error
        try:
            return data, upright_size(data)
        except MediaError as error:  # which knows no name of the data
            raise self.error(f"{path}: {error}") from error

    def box(self, name: str, size: tuple[int, int], value: Any = None) -> NormalizedBox:
        """A box [left, top, right, bottom], normalized; if any number is above 1, the field is in pixels.

        Args:
          name: of the field.
          size: (width, height) of the image in pixels.
          value: the box; None takes the field.
        """
        numbers = self._finite(name, self.value.get(name) if value is None else value, 4)
        left, top, right, bottom = numbers
        if max(numbers) > 1:
            width, height = size
            left, top, right, bottom = left / width, top / height, right / width, bottom / height
        return self.inside(name, (left, top, right, bottom))

    def height(self, name: str, image_height: float) -> float | None:
        """The height of text as a share of the image's height, None if the field is missing; above 1 it is in pixels.

        Args:
          name: of the field.
          image_height: of the image, in the pixels that the field counts.
        """
        value = self.get(name, (int, float), None)
        if value is None:
            return None
        share = value if value <= 1 else value / image_height
        if not 0 < share <= 1:
            raise self.error(f"{name!r} is {value}, expected a height within the image")
        return share

    def inside(self, name: str, box: NormalizedBox) -> NormalizedBox:
        """The part of a normalized box that lies inside the image."""
        left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in box)
        if left >= right or top >= bottom:
            raise self.error(f"{name!r} is empty, inverted or outside the image")
        return left, top, right, bottom


class LineReader(Sequence):
    """The entries of a file of JSON lines; only offsets are kept, and each line is read when it is asked for.

    Blank lines are skipped. A line that is not JSON raises `SourceError` when it is asked for.
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
    """The value in a JSON file.

    Raises:
      SourceError: the file is missing or not JSON.
    """
    path = as_path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: not JSON ({error})") from None


class ListReader(Sequence):
    """The entries of a JSON file that holds a list of objects, or an object with such a list under `name`."""

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
