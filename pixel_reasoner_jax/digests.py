"""Checksums of the files of a folder, in a file of their own in it: a bit that flips on a disk does not pass unseen."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import re
import zlib

from etils import epath

from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.files import as_path

FILE = "digests.json"
THREADS = 8
BLOCK = 2**24  # bytes read at once
LATER = {"_CHECKPOINT_METADATA": re.compile(rb'"commit_timestamp_nsecs": \w+')}
"""What Orbax changes of a checkpoint's files after their checksums were taken: by the file's name."""


def write_digests(directory: str | os.PathLike, name: str) -> None:
    """Notes the size and the CRC-32 of every file of a folder and of the folders in it.

    The files are read back for it, by several threads: what was written is compared later, not what was meant.

    Args:
      directory: the folder.
      name: what it is to be called: a folder that is moved to the name of another is not that one.
    """
    directory = as_path(directory)
    files = sorted(_files(directory))
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(files, pool.map(lambda file: _digest(directory / file), files), strict=True))
    # Without a blank: whichever bit of it flips, it is noticed.
    (directory / FILE).write_text(json.dumps({"files": found, "name": name}, separators=(",", ":")))


def find_damage(
    directory: str | os.PathLike, name: str, share: int = 0, shares: int = 1, only: str | None = None
) -> str | None:
    """Says which file of a folder is not as it was when `write_digests` was called; None where all are.

    Files that came later are no damage.

    Args:
      directory: holds the digests.
      name: what the folder is called.
      share, shares: one process of several looks at its share of the files.
      only: the one file to look at; None: all.

    Raises:
      FileNotFoundError: there are no digests.
    """
    directory = as_path(directory)
    text = (directory / FILE).read_bytes()
    try:
        noted = json.loads(text)
        files = {str(file): (size, value) for file, (size, value) in noted["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{FILE} is damaged"
    if not files or noted.keys() - {"files", "name"}:
        return f"{FILE} is damaged"
    if (before := noted.get("name", name)) != name:  # an earlier version noted none
        return f"it is {shown(before)} by its {FILE}, moved to {shown(name)}"

    def problem(file: str) -> str | None:
        try:
            found = _digest(directory / file)
        except FileNotFoundError:
            return f"{file} is missing"
        except OSError as error:
            return f"{file} cannot be read: {error.strerror or error}"
        if found[0] != files[file][0]:
            return f"{file} has {found[0]} bytes, and had {files[file][0]}"
        return None if found == files[file] else f"{file} has changed"

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        chosen = sorted(files)[share::shares] if only is None else sorted(files.keys() & {only})
        return next(filter(None, pool.map(problem, chosen)), None)


def _files(directory: pathlib.Path | epath.Path, prefix: str = "") -> list[str]:
    """Names of all files but the digests, relative to the folder."""
    names = []
    for path in directory.iterdir():
        name = f"{prefix}{path.name}"
        if path.is_dir():
            names += _files(path, f"{name}/")
        elif name != FILE:
            names.append(name)
    return names


def _digest(path: pathlib.Path | epath.Path) -> tuple[int, int]:
    """Size and CRC-32 of a file, without what is written into it later."""
    if later := LATER.get(path.name):
        content = later.sub(b"", path.read_bytes())
        return len(content), zlib.crc32(content)
    size = value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size += len(block)
            value = zlib.crc32(block, value)
    return size, value
