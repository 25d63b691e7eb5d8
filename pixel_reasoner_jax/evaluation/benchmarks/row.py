"""One row of a benchmark's file, with readers of its fields; what is wrong with one is said by an error."""

from __future__ import annotations

import ast
import base64
import binascii
import os
import pathlib
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.evaluation.benchmarks.items import LETTERS
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError
from pixel_reasoner_jax.files import resolve_inside
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.processing.decoding import VideoFile, digest
from pixel_reasoner_jax.processing.sources import MediaError
from pixel_reasoner_jax.query import is_missing
from pixel_reasoner_jax.rewards import extract_answer

MAX_LITERAL = 100_000  # characters of a list that is written as text


class Row:
    """A row.

    Args:
      values: its fields.
      index: its number in the benchmark, from 0.
      path: the file it is of.
      folder: the benchmark's folder; media are read inside it only.
      pictures: decodes its images, and keeps them for a while.
      find: finds the value of another row's field by (index of the other row as text, field).
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        index: int,
        path: Any,
        folder: Any,
        pictures: PictureStore,
        find: Callable[[str, str], Any] | None = None,
    ):
        self.values, self.index, self.path, self.folder = values, index, path, folder
        self.pictures, self._find = pictures, find

    def get(self, *names: str) -> Any:
        """The first of the named fields that has a value; None if there is none."""
        return next((self.values[name] for name in names if not is_missing(self.values.get(name))), None)

    def text(self, *names: str) -> str:
        """The first of the named fields that has a value, a text or a number, as text.

        Raises:
          RowError: there is none, or it is something else.
        """
        value = self.get(*names)
        if value is None:
            raise RowError(f"{' or '.join(map(repr, names))} is missing")
        return _text(value, names[0])

    def texts(self, *names: str) -> list[str]:
        """A field that is a list of texts, or a list written as text; a single text is a list of one."""
        value = self.get(*names)
        if value is None:
            raise RowError(f"{' or '.join(map(repr, names))} is missing")
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            value = _literal(value)
        values = value if isinstance(value, list | tuple) else [value]
        return [_text(one, names[0]) for one in values]

    def answers(self, *names: str) -> tuple[str, ...]:
        r"""The accepted answers, without the \boxed{} that the released data may have around them."""
        return tuple((extract_answer(text) or "") if "\\boxed" in text else text for text in self.texts(*names))

    def lettered(self) -> list[str]:
        """The options in columns A, B, C …, as far as they go."""
        options = []
        for letter in LETTERS:
            value = self.get(letter)
            if value is None:
                break
            options.append(_text(value, letter))
        return options

    def integer(self, *names: str) -> int:
        """A field that is a whole number, or is written as one."""
        value = self.get(*names)
        try:
            number = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            number = None
        if number is None or not abs(number) < 2**53 or number != int(number):
            raise RowError(f"{names[0]!r} is {shown(value)}, not a whole number")
        return int(number)

    def seconds(self, name: str) -> float:
        """A field that is a time in seconds."""
        try:
            return float(self.values[name])
        except (KeyError, TypeError, ValueError):
            raise RowError(f"{name!r} is {shown(self.values.get(name))}, not a time in seconds") from None

    def images(self, name: str, *prefixes: str) -> tuple[str | bytes, ...]:
        """The image or the images of a field, each decoded once to see that it can be.

        Args:
          name: of the field: a path, the bytes of a file, {"bytes", "path"}, or a list of these.
          prefixes: folders in the benchmark's that a path may start from, tried in order; itself unless given.

        Raises:
          MediaError: one cannot be read.
        """
        value = self.get(name)
        if value is None:
            raise RowError(f"{name!r} is missing")
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(self.image(one, lambda path: _under(path, prefixes)) for one in values)

    def image(self, value: Any, places: Callable[[str], Sequence[str]] = lambda path: [path]) -> str | bytes:
        """An image, decoded once: the bytes of a file, or a path, for which `places` gives the paths to try.

        Raises:
          MediaError: it cannot be read.
        """
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if not isinstance(value, bytes | str) or not value:
            raise MediaError(f"an image is a path or the bytes of a file, not {shown(value)}")
        found = value if isinstance(value, bytes) else self.first_file(places(value))
        self.pictures.open(found)
        return found

    def base64_image(self, name: str) -> tuple[bytes]:
        """The image of a field in base64; a short text names the row that has it, by its index.

        Raises:
          MediaError: it cannot be read.
        """
        text = self.text(name)
        if len(text) <= 64 and self._find is not None:
            text = _text(self._find(text.strip(), name), name)
        try:
            data = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise MediaError(f"{name!r} is not base64 ({error})") from None
        self.pictures.open(data)
        return (data,)

    def first_file(self, paths: Sequence[str]) -> str:
        """The first of some paths at which there is a file or a folder, all within the benchmark's folder.

        Raises:
          MediaError: there is none.
        """
        problem = ""
        for path in paths:
            try:
                found = resolve_inside(path, self.folder)
                if found.exists():
                    return os.fspath(found)
            except (OSError, ValueError) as error:  # it leads out of the folder, or is a name that no file can have
                problem = f" ({error})"
        raise MediaError(f"there is no file {' or '.join(paths):.200} in {self.folder}{problem:.150}")

    def video(self, name: str, *prefixes: str) -> str:
        """The path of a video file under the first of the prefixes that has it; one frame is decoded.

        Raises:
          MediaError: there is no such file, or it cannot be read.
        """
        path = self.first_file(_under(name, prefixes))
        VideoFile(path)
        return path

    def embedded(self, name: str = "image") -> tuple[str | bytes, ...]:
        """The image of a row of a VLMEvalKit table: in base64, or by its path in `image_path`."""
        return self.base64_image(name) if self.get(name) is not None else self.images("image_path", "", "images")

    def media_key(self, source: str | bytes) -> str:
        """What names a file in the clusters: its path in the folder, or a hash of its bytes."""
        if isinstance(source, bytes):
            return digest(source)
        return os.path.relpath(source, os.path.realpath(self.folder)) if "://" not in source else source


def _under(path: str, prefixes: Sequence[str]) -> list[str]:
    return [posixpath.join(prefix, path) for prefix in prefixes or ("",)]


def _literal(text: str) -> Any:
    """A list that is written as text, in Python's or JSON's way."""
    if len(text) > MAX_LITERAL:
        raise RowError("a list that is written as text is too long")
    try:
        return ast.literal_eval(text)
    except Exception:  # untrusted text makes the parser raise errors of many classes
        return [text]


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"{name!r} is {type(value).__name__}, not a text")
    return str(value)


def natural(path: Any) -> tuple:
    """Sorts paths by their names, numbers in them by value: sa_2 before sa_10."""
    name = pathlib.PurePath(str(path)).as_posix()
    parts: list[Any] = []
    digits = ""
    for character in name + "\0":
        if character.isdecimal():
            digits += character
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, character))
    return tuple(parts)
