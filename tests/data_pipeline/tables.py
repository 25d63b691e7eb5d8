"""Tables in every format, and the files that their rows name."""

from __future__ import annotations

import csv
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.processing.avi import write_avi

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
ASKED = {"question": 'Which, "a" or b?\nSay one.', "answer": "a"}


def write_table(path: pathlib.Path, rows: list[dict[str, Any]], row_group_size: int = 2) -> pathlib.Path:
    """Writes rows in the format of the suffix; CSV and parquet have all columns in every row, the unused ones empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([[_cell(row.get(name)) for name in names] for row in rows])
    else:
        columns = {name: _column([row.get(name) for row in rows]) for name in names}
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)
    return path


def _column(values: list[Any]) -> list[Any]:
    """The values as one type: lists, if one of them is."""
    several = any(isinstance(value, list) for value in values)
    return [[value] if several and isinstance(value, str) else value for value in values]


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def write_media(folder: pathlib.Path) -> pathlib.Path:
    """Writes photos/1.png and photos/2.png of 80 by 60 pixels, and film.avi, which has 8 frames in 4 seconds."""
    random = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / "photos" / f"{number}.png")
    write_avi(folder / "film.avi", [Image.new("RGB", (64, 48), (30 * n, 0, 0)) for n in range(8)], fps=2)
    return folder
