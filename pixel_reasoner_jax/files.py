"""Files here and in object stores: every path setting may be gs://…, through `etils.epath`.

An object store takes whole files. What a library can only read or write on a disk is made here and copied: `fetch`
before reading, `output_directory` for writing.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from etils import epath

from pixel_reasoner_jax.errors import UserError


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is one of an object store, such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> pathlib.Path | epath.Path:
    """A path object; of an object store, `epath`'s, which has the same methods.

    Raises:
      ValueError: it is of a kind that is not known, or whose client is not installed.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    if os.fspath(path).startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
        raise UserError(f'{path}: gs:// needs gcsfs, which comes with pip install "pixel-reasoner-jax[gs]"')
    try:
        return epath.Path(os.fspath(path))
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} paths are not supported; gs:// is") from None


def absolute(path: str | os.PathLike) -> pathlib.Path | epath.Path:
    """`as_path`, from the root."""
    path = as_path(path)
    return path if is_remote(path) else path.absolute()


def write_text(path: str | os.PathLike, text: str) -> pathlib.Path | epath.Path:
    """Writes a file whole or not at all: into a neighbour first, which then takes its name."""
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):
        path.write_text(text)
        return path
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    return path


def check_output(path: str | os.PathLike) -> None:
    """Makes sure, as far as can be told without writing, that `write_text` can write a file.

    Raises:
      ValueError: the path is a directory, or its own directory can neither be written to nor be made.
    """
    path = as_path(path)
    if path.is_dir():
        raise UserError(f"{path} is a directory: name a file to write")
    if is_remote(path):
        return
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"{path} cannot be written: {nearest} is not a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: no permission to write into {nearest}")


def move(source: pathlib.Path, target: pathlib.Path | epath.Path) -> None:
    """Puts a finished local file in its place; what was there is replaced."""
    if is_remote(target):
        _copy(source, target)
        source.unlink()
    else:
        os.replace(source, target)


@contextlib.contextmanager
def output_directory(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A local directory to write files into: `directory` itself, made if missing, or one whose files go there after.

    They go in the order in which they were written, and only if the body succeeds.
    """
    directory = as_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if not is_remote(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield pathlib.Path(scratch)
        upload(pathlib.Path(scratch), directory)


def upload(folder: pathlib.Path, directory: pathlib.Path | epath.Path) -> None:
    """Copies the files of a local folder in the order in which they were written."""
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        _copy(file, directory / file.name)


def fetch(directory: str | os.PathLike, *patterns: str) -> pathlib.Path:
    """A local directory with the files of another whose names match, all unless given: itself, or copies in the cache.

    The cache is `~/.cache/pixel_reasoner_jax/files`; what has not changed since is not copied again.
    """
    source = as_path(directory)
    if not is_remote(source):
        return source
    name = hashlib.sha256(str(source).encode()).hexdigest()[:16]
    target = pathlib.Path.home() / ".cache" / "pixel_reasoner_jax" / "files" / name
    target.mkdir(parents=True, exist_ok=True)

    def matching(folder: pathlib.Path | epath.Path) -> dict[str, pathlib.Path | epath.Path]:
        files = {file.name: file for file in folder.iterdir() if not file.name.startswith(".")}
        wanted = {name for pattern in patterns or ("*",) for name in fnmatch.filter(files, pattern)}
        return {name: files[name] for name in wanted if files[name].is_file()}

    there = matching(source) if source.is_dir() else {}
    for name in matching(target).keys() - there.keys():
        (target / name).unlink()
    for name, file in there.items():
        stamp = target / f".{name}.stamp"
        information = file.stat()
        version = f"{information.length} {information.mtime}"
        if not (target / name).exists() or not stamp.exists() or stamp.read_text() != version:
            _copy(file, target / name)
            stamp.write_text(version)
    return target


def _copy(source: pathlib.Path | epath.Path, target: pathlib.Path | epath.Path) -> None:
    """Copies between this machine and an object store; a local file is there whole or not at all."""
    if is_remote(target):
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 2**24)
        return
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".copying-") as scratch:
        partial = pathlib.Path(scratch) / target.name
        with source.open("rb") as reader, partial.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 2**24)
        os.replace(partial, target)
