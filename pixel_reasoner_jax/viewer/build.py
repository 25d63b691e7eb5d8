"""Writes a view: `index.html`, its scripts, `data/` with chunks that are loaded when needed, and `images/`.

A page that is opened from a file cannot fetch, so every chunk is a script that hands over a text of JSON. Memory holds
the rows of the list and one chunk.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import re
import time
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.report.page_files import SCRIPTS as SHARED_SCRIPTS
from pixel_reasoner_jax.report.page_files import page_file, page_style
from pixel_reasoner_jax.viewer.lines import Skipped
from pixel_reasoner_jax.viewer.pictures import FOLDER as IMAGES
from pixel_reasoner_jax.viewer.pictures import NAME as IMAGE_NAME
from pixel_reasoner_jax.viewer.pictures import Pictures
from pixel_reasoner_jax.viewer.sources import Found, read_entries
from pixel_reasoner_jax.viewer.summary import source_summary, summary

PAGE, DATA = "index.html", "data"
STYLE, ICON = "view.css", "icon.svg"
SCRIPTS = (*SHARED_SCRIPTS, "core.js", "charts.js", "summary.js", "detail.js", "list.js", "main.js")
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
CHUNK_ENTRIES, CHUNK_BYTES = 50, 1_000_000
MAX_ENTRIES = 20_000  # of a source
MARK = '<meta name="generator" content="pixel-reasoner view">'  # of the page, by which a view is known
DATA_NAME = re.compile(r"(?:index|version|[0-9]{5,9})\.js")


@dataclasses.dataclass(frozen=True)
class Built:
    """What a view holds: `counts` of the trajectories of each source, and what was `skipped` of each."""

    counts: list[int]
    skipped: list[Skipped]


def build(
    sources: list[Found],
    directory: pathlib.Path,
    model: str | os.PathLike | None = None,
    limit: int = MAX_ENTRIES,
    episodes: int = 0,
    live: int = 0,
) -> Built:
    """Writes a view of sources beside each other.

    Args:
      sources: what is shown.
      directory: of the view; made if missing.
      model: folder with the tokenizer that wrote the tokens.
      limit: trajectories that are shown of each source.
      episodes: of a run, so many of the last ones; 0: all.
      live: the version of a view that changes as its run goes on; 0: it does not.

    Raises:
      UserError: the directory holds something else.
    """
    check_directory(directory)
    version = live or time.time_ns() // 1_000_000
    write_page(directory)  # first: what an interrupted command leaves is known as a view
    pictures, chunks = Pictures(directory), _Chunks(directory / DATA, version)
    rows: list[dict[str, Any]] = []
    counts, skips = [], []
    for number, found in enumerate(sources):
        skipped, before = Skipped(), len(rows)
        entries = read_entries(found, pictures, skipped, model, episodes)
        for one in itertools.islice(entries, limit):
            rows.append({"run": number, "at": chunks.add(one.detail), **one.row})
        if len(rows) - before == limit and next(entries, None) is not None:
            skipped.add(f"beyond the first {limit:,}: more are shown with --limit", found.name)
        counts.append(len(rows) - before)
        skips.append(skipped)
    runs = [source_summary(f, rows, n, s) for n, (f, s) in enumerate(zip(sources, skips, strict=True))]
    chunks.close({"version": version, "live": live > 0, "runs": runs, "rows": rows, **summary(runs, rows)})
    for path in (directory / IMAGES).iterdir():
        if IMAGE_NAME.fullmatch(path.name) and path.name not in pictures.names:
            path.unlink()
    return Built(counts, skips)


def check_directory(directory: pathlib.Path) -> None:
    """Raises UserError where a folder holds something that is no view, which would be lost in one."""
    if directory.is_dir() and any(directory.iterdir()) and not _is_view(directory):
        raise UserError(f"--out {directory} holds something else: give a new folder, or that of an earlier view")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--out {directory} is a file: give a new folder")


def _is_view(directory: pathlib.Path) -> bool:
    """Whether a folder's page is one of ours: an index.html and a folder `data` are what other pages have too."""
    try:
        with (directory / PAGE).open("rb") as file:
            return MARK.encode() in file.read(4096)
    except OSError:
        return False


class _Chunks:
    """Scripts with the details of trajectories, each of which hands over a list.

    They name the version of the view, so that a page that was opened before it was written anew shows no wrong ones.
    """

    def __init__(self, folder: pathlib.Path, version: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._version, self._number = folder, version, 0
        self._texts: list[str] = []
        self._bytes = 0

    def add(self, detail: dict[str, Any]) -> list[int]:
        """Takes a detail; returns the number of its chunk, and its place in it."""
        text = json.dumps(detail, allow_nan=False)
        if self._texts and (len(self._texts) == CHUNK_ENTRIES or self._bytes + len(text) > CHUNK_BYTES):
            self._flush()
        self._texts.append(text)
        self._bytes += len(text)
        return [self._number, len(self._texts) - 1]

    def _flush(self) -> None:
        text = f"[{','.join(self._texts)}]"
        write_script(self._folder / f"{self._number:05d}.js", f"view.chunk({self._number}, {self._version}, ", text)
        self._number, self._texts, self._bytes = self._number + 1, [], 0

    def close(self, index: dict[str, Any]) -> None:
        """Writes the last chunk and the index, and removes chunks of an earlier view."""
        if self._texts:
            self._flush()
        write_script(self._folder / "index.js", "view.start(", json.dumps(index, allow_nan=False))
        for path in self._folder.iterdir():
            if DATA_NAME.fullmatch(path.name) and path.stem.isdecimal() and int(path.stem) >= self._number:
                path.unlink()


def write_script(path: pathlib.Path, call: str, text: str) -> None:
    """A script that calls a function of the page with a value, given as JSON; ASCII, and nothing in it is code."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(f"{call}JSON.parse({json.dumps(text)}));\n", encoding="ascii")
    temporary.replace(path)


def write_page(directory: pathlib.Path) -> None:
    """Writes the page itself, with its style and scripts."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / PAGE).write_text(page_file(__package__, PAGE).replace("{{policy}}", POLICY), encoding="utf-8")
    for name in (*SCRIPTS, ICON):
        (directory / name).write_text(page_file(__package__, name), encoding="utf-8")
    (directory / STYLE).write_text(page_style(__package__, STYLE), encoding="utf-8")
