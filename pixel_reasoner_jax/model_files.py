"""A model's folder: which of its files there are, and whose model an adapter's folder needs beside it.

A folder is one of Hugging Face's, one of ours, or an adapter's as PEFT saves it: `adapter_config.json` and
`adapter_model.safetensors`, with the name of the folder of the model that it was trained on. Whatever an adapter's
folder lacks, the model's own files say.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

from etils import epath

from pixel_reasoner_jax.errors import CheckpointError, MissingModelError, UserError, shown
from pixel_reasoner_jax.files import as_path, is_remote

ADAPTER_CONFIG = "adapter_config.json"
POINTER = b"version https://git-lfs.github.com/spec/"  # how a Git LFS pointer begins
RELEASED = re.compile(r"Qwen2\.5-VL-\d+B-Instruct")

ModelPath = pathlib.Path | epath.Path


def model_directory(directory: str | os.PathLike) -> ModelPath:
    """The path of a model's folder.

    Raises:
      MissingModelError: there is no such folder; the message says how to download it, if its name is one of the Hub's.
    """
    path = as_path(directory)
    if not path.is_dir():
        wrong = "it is a file: name a folder" if path.exists() else "no such model directory"
        raise MissingModelError(f"{path}: {wrong}{download_hint(directory, 'give')}")
    return path


def download_hint(directory: str | os.PathLike, then: str) -> str:
    """The end of a message about a folder that is not here: the command that downloads the model, and what to do then.

    Empty if the name is none that the Hub could have.
    """
    name = os.fspath(directory).rstrip("/")
    owner, _, last = name.rpartition("/")
    if is_remote(name):
        return ""
    if RELEASED.fullmatch(last):
        known, folder = f"Qwen/{last}", f"checkpoints/{last}" if owner in ("", "Qwen") else name
    elif re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not pathlib.Path(owner).exists():
        known, folder = name, f"checkpoints/{last}"
    else:
        return ""
    return (
        f"; models are not downloaded by themselves: `hf download {known} --local-dir {folder}`, then {then} {folder}"
    )


def check_is_empty(directory: str | os.PathLike) -> None:
    """Raises a `CheckpointError` if a folder that a model is to be written into holds anything already."""
    path = as_path(directory)
    if path.exists() and (not path.is_dir() or any(True for _ in path.iterdir())):
        raise CheckpointError(f"{path} is there already and not empty: choose another directory, or remove it")


@contextlib.contextmanager
def removed_on_failure(directory: str | os.PathLike) -> Iterator[None]:
    """What the body writes into a folder, which is new or empty, is removed where it fails: it may be tried again."""
    path = as_path(directory)
    was_there = path.exists()
    try:
        yield
    except BaseException:
        for left in (list(path.iterdir()) if was_there else [path]) if path.is_dir() else ():
            if is_remote(left):
                left.rmtree(missing_ok=True) if left.is_dir() else left.unlink(missing_ok=True)
            elif left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        raise


def adapter_config(directory: str | os.PathLike) -> dict[str, Any] | None:
    """The adapter_config.json of an adapter's folder; None for a folder with a model of its own."""
    directory = as_path(directory)
    if not (directory / ADAPTER_CONFIG).exists() or list(directory.glob("model*.safetensors")):
        return None
    return read_json(directory / ADAPTER_CONFIG)


def base_directory(directory: str | os.PathLike) -> ModelPath:
    """The folder of the model itself: the one that an adapter was trained on, or `directory` if it holds no adapter.

    Raises:
      UserError: the adapter's model is not here, or is an adapter too.
    """
    directory = as_path(directory)
    config = adapter_config(directory)
    if config is None:
        return directory
    name, where = config.get("base_model_name_or_path"), f"{directory / ADAPTER_CONFIG}: base_model_name_or_path"
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{where} is {shown(name)}: it must name the folder of the model that was adapted")
    found = [as_path(name)] if is_remote(name) else [pathlib.Path(name).expanduser(), directory / name]
    for path in found:
        if path.is_dir():
            if adapter_config(path) is not None:
                raise CheckpointError(f"{where} is {name}, itself an adapter: merge that one into its model first")
            return path
    hint = download_hint(name, "write in its place") or "; write in its place where that model is"
    raise MissingModelError(f"{where} is {name}, which is no folder here{hint}")


def find_file(directory: str | os.PathLike, name: str) -> ModelPath | None:
    """A file of a model's folder, or of the model that an adapter's folder names; None if neither has it."""
    own = as_path(directory) / name
    if own.exists():
        return own
    base = base_directory(directory)
    return base / name if base != as_path(directory) and (base / name).exists() else None


def read_json(path: ModelPath) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
      CheckpointError: it cannot be read, or holds something else.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # it may have no end
        raise CheckpointError(f"cannot read {path}: it is a pipe or a device, no file")
    try:
        content = path.read_bytes()
        check_is_no_pointer(path, content[: len(POINTER)])
        value = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or str(error)[:200]
        raise CheckpointError(f"cannot read {path}: {reason}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"cannot read {path}: it holds a {type(value).__name__}, no JSON object")
    return value


def check_is_no_pointer(path: ModelPath, start: bytes | None = None) -> None:
    """Raises a `CheckpointError` if a file is a Git LFS pointer in the place of what it points to, or cannot be read.

    Args:
      path: of the file.
      start: its first bytes, if they have been read.
    """
    if start is None:
        try:
            with path.open("rb") as file:
                start = file.read(len(POINTER))
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if start.startswith(POINTER):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file that it points to: run `git lfs pull` in {path.parent}, or"
            " download the model again with `hf download`"
        )
