"""Safetensors files, one tensor at a time: reading and writing hold no more than that in memory.

A file is an 8-byte header length, a JSON header and the data (https://github.com/huggingface/safetensors). The library
maps or copies whole files, which count as the process's memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from pixel_reasoner_jax.arrays import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; `offset` in bytes."""

    path: pathlib.Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        return np.fromfile(self.path, self.dtype, math.prod(self.shape), offset=self.offset).reshape(self.shape)


def open_tensors(directory: pathlib.Path, rename: Callable[[str], str]) -> dict[str, StoredTensor]:
    """All tensors of model.safetensors, or of several files and their index, by the names that `rename` gives them.

    Raises:
      CheckpointError: files that are missing, damaged or cut short, or that do not hold what the index says.
    """
    if (directory / INDEX).exists():
        weight_map = read_json(directory / INDEX)["weight_map"]
        files = sorted(set(weight_map.values()))
    elif (directory / SINGLE).exists():
        weight_map, files = None, [SINGLE]
    else:
        raise CheckpointError(f"{directory} holds neither {SINGLE} nor {INDEX}")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _open_file(directory / file).items():
            if weight_map is not None and weight_map.get(name) != file:
                raise CheckpointError(f"{directory / file} holds {name}, which {INDEX} does not place there")
            if rename(name) in tensors:
                raise CheckpointError(f"{directory} holds {rename(name)} twice, under both naming schemes")
            tensors[rename(name)] = tensor
    if absent := [name for name in weight_map or () if rename(name) not in tensors]:
        raise CheckpointError(
            f"{directory}: {INDEX} places {absent[0]} in {weight_map[absent[0]]}, but it is not there"
        )
    return tensors


def write_tensors(
    path: pathlib.Path, layout: Mapping[str, tuple[tuple[int, ...], np.dtype]], arrays: Iterable[np.ndarray]
) -> None:
    """Writes a file.

    Args:
      path: of the file.
      layout: shape and type of every tensor, by name.
      arrays: the tensors in the same order, taken one after the other.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in layout.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (shape, dtype), array in zip(layout.values(), arrays, strict=True):
            assert array.shape == shape and array.dtype == dtype
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def read_json(path: pathlib.Path) -> Any:
    """Raises: CheckpointError: it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _open_file(path: pathlib.Path) -> dict[str, StoredTensor]:
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            if start > size:
                raise CheckpointError(f"{path} is cut short or no safetensors file")
            header = json.loads(file.read(start - 8))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        try:
            (begin, end), shape = entry["data_offsets"], tuple(entry["shape"])
            known = entry["dtype"] in DTYPES
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} has a damaged header at {name}") from error
        if not known:
            raise CheckpointError(f"{path}: {name} has type {entry['dtype']}; supported are {', '.join(DTYPES)}")
        dtype = DTYPES[entry["dtype"]]
        if start + end > size or end - begin != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path} is cut short or damaged at {name}")
        tensors[name] = StoredTensor(path, start + begin, dtype, shape)
    return tensors
