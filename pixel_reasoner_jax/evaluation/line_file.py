"""A file that grows by whole lines, and survives that its writer is killed."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable

from pixel_reasoner_jax.files import as_path, is_remote, output_directory, upload

UPLOAD_SECONDS = 60.0


class LineFile:
    """Appends lines to a file, which may have been begun before.

    A line is in the file when `append` returns, whatever happens to this process afterwards. In an object store nothing
    can be appended to a file: there the file is copied once a minute, and when it is closed.

    Args:
      directory: made if missing.
      name: of the file. A damaged last line of an earlier attempt is taken away.
      check: raises ValueError for a line, given without its end, that is damaged.
    """

    def __init__(self, directory: str | os.PathLike, name: str, check: Callable[[str], object]):
        self._directory = as_path(directory)
        earlier = self._directory / name
        self._scratch = output_directory(directory)
        path = self._scratch.__enter__() / name
        if is_remote(self._directory) and earlier.exists():
            path.write_bytes(earlier.read_bytes())
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, _whole_bytes(path, check))
        self._local, self._uploaded = path.parent, time.monotonic()

    def append(self, line: str) -> None:
        """Appends a line, which is ASCII and is given without its end."""
        data = line.encode("ascii") + b"\n"
        while data:
            data = data[os.write(self._file, data) :]
        if is_remote(self._directory) and time.monotonic() - self._uploaded > UPLOAD_SECONDS:
            upload(self._local, self._directory)
            self._uploaded = time.monotonic()

    def close(self) -> None:
        os.close(self._file)
        self._scratch.__exit__(None, None, None)

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _whole_bytes(path: pathlib.Path, check: Callable[[str], object]) -> int:
    """The length of the file's whole lines: all of it but a last line that was cut short or cannot be read."""
    with path.open("rb") as file:
        end = begin = 0
        last = b""
        for line in file:
            begin, end, last = end, end + len(line), line
    if not last.endswith(b"\n"):
        return begin
    try:
        check(last.decode("utf-8"))
    except ValueError:
        return begin
    return end
