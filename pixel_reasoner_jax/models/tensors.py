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

from pixel_reasoner_jax.errors import CheckpointError, shown
from pixel_reasoner_jax.model_files import POINTER, check_is_no_pointer, read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, which begins `offset` bytes after the file's start."""

    path: pathlib.Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        return np.fromfile(self.path, self.dtype, math.prod(self.shape), offset=self.offset).reshape(self.shape)


def open_tensors(directory: pathlib.Path, rename: Callable[[str], str]) -> dict[str, StoredTensor]:
    """All tensors of model.safetensors, or of several files and their index, by the names that `rename` gives them.

    Raises:
      CheckpointError: files that are missing, damaged or cut short, or that do not hold what the index says; weights
        in another form.
    """
    if (directory / INDEX).exists():
        weight_map = _read_index(directory)
        files = sorted(set(weight_map.values()))
    elif (directory / SINGLE).exists():
        weight_map, files = None, [SINGLE]
    else:
        raise CheckpointError(f"{directory} holds neither {SINGLE} nor {INDEX}{_other_form(directory)}")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in open_file(directory / file).items():
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


def open_file(path: pathlib.Path) -> dict[str, StoredTensor]:
    """The tensors of one file.

    Raises:
      CheckpointError: it cannot be read, is cut short, damaged or no safetensors file, or holds types other than float.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            first = file.read(8)
            check_is_no_pointer(path, first + file.read(len(POINTER) - 8))
            start = 8 + int.from_bytes(first, "little")
            if start > size:
                raise CheckpointError(f"{path} is cut short or no safetensors file")
            file.seek(8)
            header = json.loads(file.read(start - 8))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a damaged header, or is no safetensors file")
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        try:
            (begin, end), shape, kind = entry["data_offsets"], tuple(entry["shape"]), entry["dtype"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} has a damaged header at {name:.80}") from error
        if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
            raise CheckpointError(f"{path} has a damaged header at {name:.80}")
        if not isinstance(kind, str) or kind not in DTYPES:
            raise CheckpointError(
                f"{path}: {name:.80} has type {kind!s:.20}; supported are {', '.join(DTYPES)}, and no quantized weights"
            )
        dtype = DTYPES[kind]
        if start + end > size or end - begin != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path} is cut short or damaged at {name:.80}")
        tensors[name] = StoredTensor(path, start + begin, dtype, shape)
    return tensors


def _read_index(directory: pathlib.Path) -> dict[str, str]:
    """File names by tensor, of an index whose files are all there."""
    path = directory / INDEX
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"cannot read {path}: it has no weight_map from tensors to files")
    files = sorted(set(weight_map.values()))
    if outside := [file for file in files if pathlib.PurePath(file).name != file]:
        raise CheckpointError(f"{path} names {shown(outside[0])}, which is no file in its folder")
    if missing := [file for file in files if not (directory / file).exists()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{directory} lacks {missing[0]:.80}{more} of the {len(files)} files that {INDEX} names: the download is"
            " not complete; the same `hf download` again gets what is missing"
        )
    return weight_map


def _other_form(directory: pathlib.Path) -> str:
    """What a folder without the weights' files holds in their place, as the end of a message; empty if nothing known.

    An object store's folder was copied without files of other forms.
    """

    def first(*patterns: str) -> str | None:
        return next((path.name for pattern in patterns for path in sorted(directory.glob(pattern))), None)

    if name := first("model-*-of-*.safetensors"):
        return f", which says what is in {name} and the others: download it too"
    if name := first("pytorch_model*.bin*", "*.bin", "*.pt", "*.pth"):
        return (
            f", but {name}: pickled weights are not read; transformers' from_pretrained and then save_pretrained make"
            " safetensors of them"
        )
    if name := first("*.gguf"):
        return f", but {name}, the form of llama.cpp, which is not read: download the model's safetensors"
    if name := first("*.safetensors"):
        return f", but {name}, which has none of these names"
    return ": it has no weights in that form"
