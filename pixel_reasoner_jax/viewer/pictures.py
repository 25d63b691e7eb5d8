"""The images of a view: each written once, under a digest of its content."""

from __future__ import annotations

import io
import os
import pathlib
import re
import stat
from typing import Any

from PIL import Image

from pixel_reasoner_jax.files import storage_problem
from pixel_reasoner_jax.processing import Picture, load_image
from pixel_reasoner_jax.processing.decoding import digest
from pixel_reasoner_jax.report.entries import Shown

FOLDER = "images"
MAX_BYTES = 2**27  # of an image file
REMEMBERED = 50_000  # names of sources
SHOWN = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}  # what browsers show
NAME = re.compile(r"[0-9a-f]{8,64}\.(?:png|jpg|webp|gif|bmp)")
_STORED = re.compile(r"[0-9a-f]{8,64}\.(?:png|jpg|webp|gif|bmp|ppm|tiff)")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations


class Pictures:
    """Writes the images of a view, which finds each by its `file` in the folder.

    Args:
      directory: of the view.
    """

    def __init__(self, directory: pathlib.Path):
        self._folder = directory / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Shown] = {}
        self.names: set[str] = set()

    def add(self, source: Any) -> Shown | None:
        """Writes an image: a PIL image, a picture, the bytes of a file, a path, or what `add` or `Stored.get` returned.

        Returns None for what cannot be read. A full disk is an error.
        """
        if isinstance(source, dict):
            return source
        try:
            if isinstance(source, str | os.PathLike):
                source = _file_bytes(pathlib.Path(source))
            if isinstance(source, bytes):
                return self._bytes(source) if source else None
            if isinstance(source, Picture):
                source = source.load()
            return self._pixels(source) if isinstance(source, Image.Image) else None
        except Exception as error:  # a damaged image can fail in many ways
            if storage_problem(error):
                raise
            return None

    def add_file(self, path: pathlib.Path) -> Shown | None:
        """Writes a file of an evaluation, which is read once; a link may lead out of its folder and is none of it."""
        key = str(path)
        if path.is_symlink():
            return None
        if key not in self._known:
            shown = self.add(path)
            if shown is None or len(self._known) >= REMEMBERED:
                return shown
            self._known[key] = shown
        return dict(self._known[key])

    def _bytes(self, data: bytes) -> Shown:
        with Image.open(io.BytesIO(data)) as image:
            kind, size = SHOWN.get(image.format or ""), image.size
            turned = image.getexif().get(0x0112) in _SIDEWAYS
        if kind is None:
            return self._pixels(load_image(data))
        return self._write(data, kind, size[::-1] if turned else size)

    def _pixels(self, image: Image.Image) -> Shown:
        buffer = io.BytesIO()
        image = image if image.mode in ("1", "L", "P", "RGB", "RGBA") else image.convert("RGB")
        image.save(buffer, "PNG", compress_level=1)
        return self._write(buffer.getvalue(), "png", image.size)

    def _write(self, data: bytes, kind: str, size: tuple[int, int]) -> Shown:
        name = f"{digest(data)}.{kind}"
        if name not in self.names:
            path = self._folder / name
            if not path.exists():
                temporary = path.with_name(f".{name}")
                temporary.write_bytes(data)
                temporary.replace(path)
            self.names.add(name)
        return {"file": name, "width": size[0], "height": size[1]}


class Stored:
    """Images that `evaluation.trajectories.TrajectoryWriter` kept, as its reader of lines asks for them."""

    def __init__(self, folder: pathlib.Path, pictures: Pictures):
        self._folder, self._pictures = folder, pictures

    def get(self, value: Any) -> Shown | None:
        """What is shown of a stored image; None where that is gone or damaged."""
        try:
            return self._get(value)
        except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError):
            return None

    def _get(self, value: Any) -> Shown | None:
        if not isinstance(value, dict):
            return None
        if "of" in value:
            whole, (width, height) = self._get(value["of"]), value["size"]
            if whole is None or not (width > 0 and height > 0):
                return None
            left, top, right, bottom = whole.get("box", (0, 0, whole["width"], whole["height"]))
            x, y = (right - left) / width, (bottom - top) / height
            a, b, c, d = value["box"]
            return {**whole, "box": [left + a * x, top + b * y, left + c * x, top + d * y]}
        if not isinstance(value.get("file"), str) or not _STORED.fullmatch(value["file"]):
            return None
        shown = self._pictures.add_file(self._folder / value["file"])
        if shown is None or "box" not in value:
            return shown
        left, top, right, bottom = map(float, value["box"])
        if not (0 <= left < right <= shown["width"] and 0 <= top < bottom <= shown["height"]):
            return None
        return {**shown, "box": [left, top, right, bottom]}


def _file_bytes(path: pathlib.Path) -> bytes:
    """The content of a regular file; of a pipe, a device or a huge file nothing is read."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
        raise ValueError(f"{path.name}: no image file")
    return path.read_bytes()
