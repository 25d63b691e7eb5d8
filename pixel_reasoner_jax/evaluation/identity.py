"""What made an evaluation's responses: a digest of the model's weights, and the versions of what computed."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
from typing import Any

from pixel_reasoner_jax import __version__
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.model_files import base_directory
from pixel_reasoner_jax.models.weights import CONVERTED

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "transformers")
BLOCK, BLOCKS = 2**12, 2**10  # bytes of a block, and blocks of a large file that are read


def model_hash(directory: str | os.PathLike) -> str:
    """A digest of the weights of a model directory, which is quick however large they are; of an adapter's with those
    of the model that it adapts.

    Of each file of weights its name, its size and 1,024 blocks of 4 KiB spread over it count; a small one is read
    whole. In a file of 5 GB that is a block every 5 MB, so that it tells runs and their checkpoints apart, but not
    files that differ in a few bytes.
    """
    found = hashlib.sha256()
    for folder in dict.fromkeys((as_path(directory), base_directory(directory))):
        converted = folder / CONVERTED
        files = converted.rglob("*") if converted.exists() else folder.glob("*.safetensors")
        names = {os.fspath(path)[len(os.fspath(folder)) :].strip("/\\").replace("\\", "/"): path for path in files}
        for name, path in sorted({**names, "config.json": folder / "config.json"}.items()):
            if path.is_file():
                _add(found, name, path)
    return found.hexdigest()[:16]


def _add(found: Any, name: str, path: Any) -> None:
    """Adds a file's name, size and blocks to a digest."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        found.update(f"{name}\0{size}\0".encode("utf-8", "surrogatepass"))
        for start in _starts(size):
            file.seek(start)
            found.update(file.read(BLOCK))


def _starts(size: int) -> list[int]:
    """Where the blocks of a file begin."""
    if size <= BLOCK * BLOCKS:
        return list(range(0, size, BLOCK))
    return [(size - BLOCK) * block // (BLOCKS - 1) for block in range(BLOCKS)]


@functools.cache  # the files of installed packages are parsed for it
def versions() -> dict[str, str]:
    """The versions of this package, of Python, and of what computes."""
    found = {"pixel_reasoner_jax": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}
