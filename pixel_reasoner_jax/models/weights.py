"""Parameters from and to Hugging Face checkpoints: one table of names, two directions."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from pixel_reasoner_jax.checkpoint import CHECKPOINTS, CheckpointError, read_arrays
from pixel_reasoner_jax.files import as_path, fetch, is_remote, move
from pixel_reasoner_jax.models.config import Config, ConfigError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONVERTED = "parameters"  # folder of the model's own arrays, in place of safetensors
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a released tensor lives here.

    Attributes:
      path: of the parameter in the model's state.
      layer: index into the parameter's leading axis; None when it has none.
      shape: of the released tensor. Its kernels are [outputs, inputs...], ours [*inputs, *outputs].
    """

    path: tuple[str, ...]
    layer: int | None
    shape: tuple[int, ...]

    def to_ours(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A view of the tensor in our order of axes."""
        if self.path[-1] == "kernel":
            tensor = tensor.reshape(tensor.shape[0], -1).T
        return tensor.reshape(shape)

    def to_released(self, array: np.ndarray) -> np.ndarray:
        if self.path[-1] == "kernel":
            array = array.reshape(-1, self.shape[0]).T
        return np.ascontiguousarray(array.reshape(self.shape))


def places(config: Config) -> dict[str, Place]:
    """The place of every tensor of a released checkpoint, by its name."""
    vision, size = config.vision, config.hidden_size
    table: dict[str, Place] = {}

    def add(name: str, path: str, shape: tuple[int, ...], depth: int | None = None) -> None:
        path = tuple(path.split("."))
        for layer in range(depth or 0):
            table[name.format(layer)] = Place(path, layer, shape)
        if depth is None:
            table[name] = Place(path, None, shape)

    def linear(name: str, path: str, outputs: int, inputs: int, depth: int | None = None, bias: bool = True) -> None:
        add(f"{name}.weight", f"{path}.kernel", (outputs, inputs), depth)
        if bias:
            add(f"{name}.bias", f"{path}.bias", (outputs,), depth)

    def mlp(name: str, path: str, size: int, hidden: int, depth: int, bias: bool) -> None:
        linear(f"{name}.gate_proj", f"{path}.gate", hidden, size, depth, bias)
        linear(f"{name}.up_proj", f"{path}.up", hidden, size, depth, bias)
        linear(f"{name}.down_proj", f"{path}.down", size, hidden, depth, bias)

    patch = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    add("visual.patch_embed.proj.weight", "vision.embed.kernel", (vision.hidden_size, *patch))
    theirs, ours, depth, width = "visual.blocks.{}", "vision.layers", vision.depth, vision.hidden_size
    add(f"{theirs}.norm1.weight", f"{ours}.norm1.scale", (width,), depth)
    linear(f"{theirs}.attn.qkv", f"{ours}.qkv", 3 * width, width, depth)
    linear(f"{theirs}.attn.proj", f"{ours}.out", width, width, depth)
    add(f"{theirs}.norm2.weight", f"{ours}.norm2.scale", (width,), depth)
    mlp(f"{theirs}.mlp", f"{ours}.mlp", width, vision.intermediate_size, depth, bias=True)
    merged = width * vision.merge_patches
    add("visual.merger.ln_q.weight", "vision.merger.norm.scale", (width,))
    linear("visual.merger.mlp.0", "vision.merger.up", merged, merged)
    linear("visual.merger.mlp.2", "vision.merger.down", size, merged)

    add("model.embed_tokens.weight", "language.embedding", (config.vocab_size, size))
    theirs, ours, depth = "model.layers.{}", "language.layers", config.num_hidden_layers
    key_size = config.num_key_value_heads * config.head_dim
    add(f"{theirs}.input_layernorm.weight", f"{ours}.norm1.scale", (size,), depth)
    linear(f"{theirs}.self_attn.q_proj", f"{ours}.query", size, size, depth)
    linear(f"{theirs}.self_attn.k_proj", f"{ours}.key", key_size, size, depth)
    linear(f"{theirs}.self_attn.v_proj", f"{ours}.value", key_size, size, depth)
    linear(f"{theirs}.self_attn.o_proj", f"{ours}.out", size, size, depth, bias=False)
    add(f"{theirs}.post_attention_layernorm.weight", f"{ours}.norm2.scale", (size,), depth)
    mlp(f"{theirs}.mlp", f"{ours}.mlp", size, config.intermediate_size, depth, bias=False)
    add("model.norm.weight", "language.norm.scale", (size,))
    if not config.tie_word_embeddings:
        linear("lm_head", "head", config.vocab_size, size, bias=False)
    return table


def released_name(name: str) -> str:
    """The released checkpoints' name of a tensor that newer files call `model.visual…` or `model.language_model…`."""
    return re.sub(r"^model\.(?=visual\.)|(?<=^model\.)language_model\.", "", name)


def read_config(directory: str | os.PathLike) -> Config:
    """The configuration in a checkpoint directory.

    Raises:
      CheckpointError: there is no such directory, no config.json in it, or it is a run's.
      ConfigError: a configuration this model does not implement.
    """
    directory = as_path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory")
    if (directory / CHECKPOINTS).is_dir():
        raise CheckpointError(
            f"{directory} is the directory of a run: give {directory / 'model'}, or make one with"
            f" `pixel-reasoner export {directory} --out DIR`"
        )
    path = directory / "config.json"
    try:
        return Config.from_hf(_read_json(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_parameters(directory: str | os.PathLike, config: Config, abstract: nnx.State, shardings=None) -> nnx.State:
    """Fills an abstract state from a directory's safetensors, one parameter at a time, or from a converted directory.

    Files are mapped into memory, so that a host reads only what its devices hold.

    Args:
      directory: holds model.safetensors, or several files and their index, or what `convert` made of them.
      config: the sizes the files must have.
      abstract: state whose values have shapes and dtypes; every value is cast to its dtype.
      shardings: state of the same structure with a sharding for each parameter; None puts all on the default device.

    Raises:
      CheckpointError: a tensor is missing, unknown, misshapen, of another kind than float, or a file is cut short.
    """
    converted = as_path(directory) / CONVERTED
    if converted.is_dir():
        return read_arrays(converted, abstract, shardings)
    table = places(config)
    tensors = _open_tensors(fetch(directory, "*.json", "*.safetensors"))
    _check(table, tensors, directory)
    layers: dict[tuple[str, ...], list[tuple[str, Place]]] = {}
    for name, place in table.items():
        layers.setdefault(place.path, []).append((name, place))

    def read(path: tuple[str, ...], shape: tuple[int, ...], dtype, index: tuple[slice, ...]) -> np.ndarray:
        names = layers[path]
        if names[0][1].layer is None:
            name, place = names[0]
            return place.to_ours(tensors[name], shape)[index].astype(dtype)
        part = [place.to_ours(tensors[name], shape[1:])[index[1:]].astype(dtype) for name, place in names[index[0]]]
        return np.stack(part)

    shardings = dict(nnx.to_flat_state(shardings)) if shardings is not None else {}
    filled = []
    for path, variable in nnx.to_flat_state(abstract):
        shape, dtype = variable.shape, variable.dtype
        if path in shardings:
            value = jax.make_array_from_callback(
                shape, shardings[path].get_value(), lambda index, args=(path, shape, dtype): read(*args, index)
            )
        else:
            value = jnp.asarray(read(path, shape, dtype, (slice(None),) * len(shape)))
        filled.append((path, variable.replace(value)))
    return nnx.from_flat_state(filled)


def write_parameters(directory: str | os.PathLike, config: Config, state: nnx.State, max_shard_size: int | str) -> None:
    """Writes config.json and safetensors that `transformers` loads; a reader never sees a half-written file.

    Args:
      directory: made if missing; its older weight files are replaced.
      state: the parameters; they are written in their own dtype.
      max_shard_size: bytes of one file, or a string such as "5GB". A tensor is never split.
    """
    directory = as_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parameters = {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}
    # Parameter by parameter, so that each is fetched from the devices once.
    order = {path: number for number, path in enumerate(parameters)}
    table = dict(sorted(places(config).items(), key=lambda item: order[item[1].path]))
    shards = _plan(table, parameters, parse_size(max_shard_size))
    with tempfile.TemporaryDirectory(dir=None if is_remote(directory) else directory, prefix=".writing-") as scratch:
        scratch = pathlib.Path(scratch)
        for file, tensors in zip(shards, _tensors(table, parameters, shards.values()), strict=True):
            save_file(tensors, scratch / file, metadata={"format": "pt"})
        total = sum(math.prod(p.shape) * parameters[p.path].dtype.itemsize for p in table.values())
        weight_map = {name: file for file, names in shards.items() for name in names}
        dtype = str(parameters["language", "embedding"].dtype)
        _write_json(scratch / "config.json", config.to_hf() | {"dtype": dtype})
        if len(shards) > 1:
            _write_json(scratch / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        stale = {path.name for path in directory.glob("model*.safetensors")} | {INDEX}
        for file in shards:  # the library writes files that their owner alone can read
            shutil.copymode(scratch / "config.json", scratch / file)
        for file in sorted(os.listdir(scratch), key=lambda name: name == INDEX):  # the index last
            move(scratch / file, directory / file)
            stale.discard(file)
        for file in stale:
            (directory / file).unlink(missing_ok=True)


def parse_size(size: int | str) -> int:
    """Bytes of 5_000_000_000, "5GB", "500MB" or "64KB"."""
    if isinstance(size, int):
        return size
    if not (match := re.fullmatch(r"(\d+)\s*(KB|MB|GB|TB)", size.strip().upper())):
        raise ValueError(f"max_shard_size {size!r} is neither a number of bytes nor a size such as '5GB'")
    return int(match[1]) * 1000 ** (1 + ("KB", "MB", "GB", "TB").index(match[2]))


def _plan(table: dict[str, Place], parameters: dict, limit: int) -> dict[str, list[str]]:
    """File names to the tensors they hold."""
    groups: list[list[str]] = [[]]
    held = 0
    for name, place in table.items():
        size = math.prod(place.shape) * parameters[place.path].dtype.itemsize
        if groups[-1] and held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, 1)}


def _tensors(table: dict[str, Place], parameters: dict, groups) -> Iterator[dict[str, np.ndarray]]:
    held_path, held = None, None
    for names in groups:
        tensors = {}
        for name in names:
            place = table[name]
            if place.path != held_path:
                held_path, held = place.path, np.asarray(jax.device_get(parameters[place.path]))
            tensors[name] = place.to_released(held if place.layer is None else held[place.layer])
        yield tensors


def _open_tensors(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Read-only views of all tensors, by released name."""
    if (directory / INDEX).exists():
        weight_map = _read_json(directory / INDEX)["weight_map"]
        files = sorted(set(weight_map.values()))
    elif (directory / SINGLE).exists():
        weight_map, files = None, [SINGLE]
    else:
        raise CheckpointError(f"{directory} holds neither {SINGLE} nor {INDEX}")
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        for name, tensor in _map_file(directory / file).items():
            if weight_map is not None and weight_map.get(name) != file:
                raise CheckpointError(f"{directory / file} holds {name}, which {INDEX} does not place there")
            if released_name(name) in tensors:
                raise CheckpointError(f"{directory} holds {released_name(name)} twice, under both naming schemes")
            tensors[released_name(name)] = tensor
    if absent := [name for name in weight_map or () if released_name(name) not in tensors]:
        raise CheckpointError(
            f"{directory}: {INDEX} places {absent[0]} in {weight_map[absent[0]]}, but it is not there"
        )
    return tensors


def _map_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Views into a safetensors file: an 8-byte header length, a JSON header, then the data."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if 8 + length > size:
                raise CheckpointError(f"{path} is cut short or no safetensors file")
            header = json.loads(file.read(length))
        data = np.memmap(path, np.uint8, mode="r")[8 + length :]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        try:
            (begin, end), shape = entry["data_offsets"], entry["shape"]
            known = entry["dtype"] in DTYPES
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} has a damaged header at {name}") from error
        if not known:
            raise CheckpointError(f"{path}: {name} has type {entry['dtype']}; supported are {', '.join(DTYPES)}")
        dtype = DTYPES[entry["dtype"]]
        if end > data.size or end - begin != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path} is cut short or damaged at {name}")
        tensors[name] = data[begin:end].view(dtype).reshape(shape)
    return tensors


def _check(table: dict[str, Place], tensors: dict[str, np.ndarray], directory) -> None:
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if head not in table and head in tensors and embedding in tensors:  # a tied head some tools write out
        if not np.array_equal(tensors.pop(head), tensors[embedding]):
            raise CheckpointError(f"{directory}: {head} differs from {embedding}, but config.json ties them")
    for kind, names in (("lacks", table.keys() - tensors.keys()), ("has unknown", tensors.keys() - table.keys())):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise CheckpointError(f"{directory} {kind} tensors {', '.join(sorted(names)[:8])}{more}")
    for name, place in table.items():
        if tensors[name].shape != place.shape:
            raise CheckpointError(
                f"{directory}: {name} has shape {list(tensors[name].shape)}, config.json makes it {list(place.shape)}"
            )


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


__all__ = ["CheckpointError", "places", "read_config", "read_parameters", "released_name", "write_parameters"]
