"""Lines of files that others wrote, which may be half written, damaged or hostile."""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Iterator
from typing import Any

MAX_LINE = 2**26  # bytes: a longer line is no record of ours
MAX_FILE = 2**24  # bytes of a JSON file that is read whole


class Skipped:
    """What could not be read: counted by its reason, with the first place of each."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str, count: int = 1) -> None:
        if reason not in self._counts and len(self._counts) >= 50:
            reason = "for other reasons"
        self._counts[reason] += count
        self._first.setdefault(reason, where[:300])

    @property
    def count(self) -> int:
        return self._counts.total()

    def table(self) -> list[dict[str, Any]]:
        """A mapping with `reason`, `count` and `first`, the place, for each reason."""
        return [{"reason": why, "count": n, "first": self._first[why]} for why, n in self._counts.most_common()]


def lines_of(path: pathlib.Path, skipped: Skipped) -> Iterator[tuple[int, int, bytes]]:
    """The whole lines of a file, one at a time: number from 1, offset in bytes, and the line without its end.

    A line that is too long, and a last one without its end, is added to `skipped`.
    """
    with path.open("rb") as file:
        number = 0
        while True:
            offset = file.tell()
            line = file.readline(MAX_LINE)
            if not line:
                return
            number += 1
            if line.endswith(b"\n"):
                if line.strip():
                    yield number, offset, line[:-1]
                continue
            is_last = len(line) < MAX_LINE
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
            reason = "half-written last line" if is_last else f"line of more than {MAX_LINE:,} bytes"
            skipped.add(reason, f"{path.name}, line {number}")


def objects_of(path: pathlib.Path, skipped: Skipped) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file of lines, with the numbers of their lines; other lines are added to `skipped`."""
    for number, _, line in lines_of(path, skipped):
        value = parsed(line)
        if isinstance(value, dict):
            yield number, value
        else:
            skipped.add("line that is no JSON object", f"{path.name}, line {number}")


def parsed(text: bytes) -> Any:
    """The value of a JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_file(path: pathlib.Path) -> Any:
    """The value of a JSON file; None where there is none that can be read."""
    try:
        if path.stat().st_size > MAX_FILE:
            return None
        return parsed(path.read_bytes())
    except OSError:
        return None
