"""Local files and files in object stores: every path setting may be gs://…, through `etils.epath`.

An object store stores complete files only. For libraries that can only read or write local files, `fetch` copies files
to this machine before they are read, and `output_directory` copies written files to the store.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import importlib.util
import os
import pathlib
import posixpath
import shutil
import tempfile
from collections.abc import Iterator

from etils import epath

from pixel_reasoner_jax.errors import UserError

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What the system says of a disk that takes nothing more, or does not work."""


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is in an object store, such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> pathlib.Path | epath.Path:
    """A path object; for a path in an object store an `epath.Path`, which has the same methods.

    Raises:
      UserError: the store is not supported, or its client is not installed.
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
    """Like `as_path`, but the path is absolute."""
    path = as_path(path)
    return path if is_remote(path) else path.absolute()


def resolve_inside(path: str | os.PathLike, root: str | os.PathLike) -> pathlib.Path | epath.Path:
    """The path with links and ".." resolved; a relative one starts from the root.

    Args:
      path: local, with or without file://, or in an object store.
      root: the folder that it must not lead out of, local or in an object store.

    Raises:
      UserError: it leads out of the root.
    """
    text = os.fspath(path).removeprefix("file://")
    start = os.fspath(root).rstrip("/") if is_remote(root) else os.path.realpath(root)
    if is_remote(root):
        scheme, _, rest = (text if is_remote(text) else f"{start}/{text}").partition("://")
        inside = f"{scheme}://{posixpath.normpath(rest)}"
        if not text.startswith("/") and inside.startswith(f"{start}/"):
            return as_path(inside)
    elif not is_remote(text):
        inside = os.path.realpath(os.path.join(start, text))
        if inside == start or inside.startswith(os.path.join(start, "")):
            return pathlib.Path(inside)
    raise UserError(f"{text}: leads out of {start}, the folder that media are read from")


class StorageError(UserError):
    """A disk that takes nothing more or does not work; the message says where that has ended what."""


def storage_problem(error: BaseException | None) -> str | None:
    """What is wrong with the disk, in the system's words, if that is what an exception comes from; else None.

    Libraries wrap the system's errors: causes are looked at too, and messages that hold the system's words.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
            return f"{os.strerror(error.errno)}{where}"
        if not isinstance(error, UserError):
            for words in map(os.strerror, STORAGE_ERRORS):
                if words in str(error):
                    return words
        error = error.__cause__ or error.__context__
    return None


def write_text(path: str | os.PathLike, text: str) -> pathlib.Path | epath.Path:
    """Writes a file atomically: into a temporary file in the same folder, which is then renamed."""
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
    except BaseException as error:
        pathlib.Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = os.fspath(path)  # what is being written does not say where, and the temporary name is ours
        raise
    return path


def check_output(path: str | os.PathLike) -> None:
    """Checks, as far as that is possible without writing, that `write_text` can write a file.

    Raises:
      UserError: the path is a directory, or the file's directory can neither be written to nor be made.
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


def check_folder(path: str | os.PathLike) -> None:
    """Checks that a path is a folder, or may become one.

    Raises:
      UserError: the path, or one above it, is a file.
    """
    path = as_path(path)
    if is_remote(path):
        return
    nearest = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"{path} is to be a folder, and {nearest} is a file: choose another, or remove it")


def move(source: pathlib.Path, target: pathlib.Path | epath.Path) -> None:
    """Moves a finished local file to `target`, replacing a file that is there."""
    if is_remote(target):
        _copy(source, target)
        source.unlink()
    else:
        os.replace(source, target)


@contextlib.contextmanager
def output_directory(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A local directory to write files into: `directory` itself, or for an object store a temporary one.

    A missing `directory` is made. The temporary directory's files are uploaded to `directory` after the body, unless
    that raises an exception, in the order in which they were written.
    """
    directory = as_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if not is_remote(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # a tracker may still write there
        yield pathlib.Path(scratch)
        upload(pathlib.Path(scratch), directory)


def upload(folder: pathlib.Path, directory: pathlib.Path | epath.Path) -> None:
    """Copies the files of a local folder to a directory, in the order of their writing; folders in it are left out."""
    files = [file for file in folder.iterdir() if file.is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
        _copy(file, directory / file.name)


def fetch(directory: str | os.PathLike, *patterns: str) -> pathlib.Path:
    """A local directory with the files of `directory`: itself, or for an object store a folder of copies in the cache.

    The cache is `~/.cache/pixel_reasoner_jax/files`; files that have not changed are not copied again.

    Args:
      directory: local, or in an object store.
      patterns: only files whose names match one of them are copied; all files unless given.
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

    remote = matching(source) if source.is_dir() else {}
    for name in matching(target).keys() - remote.keys():
        (target / name).unlink()
    for name, file in remote.items():
        stamp = target / f".{name}.stamp"
        information = file.stat()
        version = f"{information.length} {information.mtime}"
        if not (target / name).exists() or not stamp.exists() or stamp.read_text() != version:
            _copy(file, target / name)
            stamp.write_text(version)
    return target


def _copy(source: pathlib.Path | epath.Path, target: pathlib.Path | epath.Path) -> None:
    """Copies a file between this machine and an object store; a local file is written atomically."""
    if is_remote(target):
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 2**24)
        return
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".copying-") as scratch:
        partial = pathlib.Path(scratch) / target.name
        with source.open("rb") as reader, partial.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 2**24)
        os.replace(partial, target)
