"""Small data in the forms in which benchmarks are published."""

from __future__ import annotations

import base64
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.processing.avi import write_avi

COLOURS = ("red", "green", "blue", "white", "black")


def image_bytes(shade: int = 0, size: tuple[int, int] = (32, 24)) -> bytes:
    """A PNG; another shade is another image."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade % 256, shade // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def base64_image(shade: int = 0) -> str:
    return base64.b64encode(image_bytes(shade)).decode()


def write_image(path: pathlib.Path, shade: int = 0) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes(shade))
    return path


def write_video(path: pathlib.Path, frames: int = 20, fps: int = 10) -> pathlib.Path:
    """A video whose frames get lighter, in an AVI whatever its suffix: decoders look at the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_avi(path, [Image.new("RGB", (64, 48), (10 * n % 256,) * 3) for n in range(frames)], fps)


def write_json(path: pathlib.Path, value: Any) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: pathlib.Path, rows: Sequence[Any]) -> pathlib.Path:
    """JSON lines; a row that is a text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: pathlib.Path, rows: Sequence[Mapping[str, Any]], group: int | None = None) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path


def write_tsv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> pathlib.Path:
    """As pandas writes it: quotes where there is a tab, a quote or a newline; nothing for a missing value."""

    def field(value: Any) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in '\t\n"') else text

    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["\t".join(names), *("\t".join(field(row.get(name)) for name in names) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
