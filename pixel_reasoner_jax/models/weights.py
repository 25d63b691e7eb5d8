"""Parameters from and to Hugging Face checkpoints: one table of names, two directions."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding
from jaxtyping import Array

from pixel_reasoner_jax.arrays import read_arrays
from pixel_reasoner_jax.errors import CheckpointError, UserError
from pixel_reasoner_jax.files import as_path, fetch, is_remote, move
from pixel_reasoner_jax.model_files import base_directory, model_directory, read_json
from pixel_reasoner_jax.models.config import Config, ModelConfigError
from pixel_reasoner_jax.models.layers import ADAPTER, Adapter
from pixel_reasoner_jax.models.peft import merged_tensors
from pixel_reasoner_jax.models.tensors import DTYPES, INDEX, SINGLE, StoredTensor, open_tensors, write_tensors
from pixel_reasoner_jax.parallel import is_main, to_host

CONVERTED = "parameters"  # folder of the model's own arrays, in place of safetensors
BUFFER = 2**28  # bytes of a stack's layers that are read before they go to the devices; one layer may be more


@dataclasses.dataclass(frozen=True)
class TensorTarget:
    """Which part of which parameter a released tensor is.

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


def tensor_targets(config: Config) -> dict[str, TensorTarget]:
    """The target of every tensor of a released checkpoint, by its name."""
    vision, size = config.vision, config.hidden_size
    table: dict[str, TensorTarget] = {}

    def add(name: str, path: str, shape: tuple[int, ...], depth: int | None = None) -> None:
        path = tuple(path.split("."))
        for layer in range(depth or 0):
            table[name.format(layer)] = TensorTarget(path, layer, shape)
        if depth is None:
            table[name] = TensorTarget(path, None, shape)

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
        add("lm_head.weight", "head", (config.vocab_size, size))
    return table


def released_name(name: str) -> str:
    """The released checkpoints' name of a tensor that newer files call `model.visual…` or `model.language_model…`."""
    return re.sub(r"^model\.(?=visual\.)|(?<=^model\.)language_model\.", "", name)


def read_config(directory: str | os.PathLike) -> Config:
    """The configuration in a checkpoint directory; of an adapter's, that of the model it was trained on.

    Raises:
      MissingModelError: there is no such directory, or not that of an adapter's model.
      CheckpointError: there is no config.json in it.
      ModelConfigError: a configuration this model does not implement.
    """
    path = base_directory(model_directory(directory)) / "config.json"
    try:
        return Config.from_hf(read_json(path))
    except ModelConfigError as error:
        raise ModelConfigError(f"{path}: {error}") from None


def stored_dtype(directory: str | os.PathLike) -> str:
    """The type of a checkpoint's parameters, as its config.json says, else its embedding: "float32", "bfloat16", …

    A checkpoint that says neither is float32, as `convert` writes unless told otherwise.
    """
    base = base_directory(model_directory(directory))
    config = read_json(base / "config.json")
    for section in filter(None, (config, config.get("text_config"))):
        for key in ("dtype", "torch_dtype"):
            name = str(section.get(key)).removeprefix("torch.")
            if name in map(str, DTYPES.values()):
                return name
    if (base / CONVERTED).is_dir():
        return "float32"
    tensors = open_tensors(fetch(base, "*.json", "*.safetensors"), released_name)
    return str(tensors["model.embed_tokens.weight"].dtype) if "model.embed_tokens.weight" in tensors else "float32"


def read_parameters(directory: str | os.PathLike, config: Config, abstract: nnx.State, shardings=None) -> nnx.State:
    """Fills an abstract state from a directory's safetensors, or from a converted directory.

    Args:
      directory: holds model.safetensors, or several files and their index, or what `convert` made of them; or an
        adapter, which is merged into its model's.
      config: the sizes the files must have.
      abstract: state whose values have shapes and dtypes; every value is cast to its dtype.
      shardings: state of the same structure with a sharding for each parameter; None puts all on the default device.

    Raises:
      CheckpointError: a tensor is missing, unknown, misshapen, of another kind than float, or a file is cut short.
    """
    base = base_directory(directory)
    converted = base / CONVERTED
    if converted.is_dir():
        if base != as_path(directory):
            raise CheckpointError(
                f"{base}, which the adapter in {directory} was trained on, is a converted model: name the Hugging Face"
                " form of it"
            )
        return read_arrays(converted, abstract, shardings)
    return nnx.from_flat_state(list(stream_parameters(directory, config, abstract, shardings)))


def stream_parameters(
    directory: str | os.PathLike, config: Config, abstract: nnx.State, shardings=None
) -> Iterator[tuple[tuple, nnx.Variable]]:
    """The parameters of a directory's safetensors one by one, by path; see `read_parameters`.

    Tensors are read one by one and go to the devices at once, which cast them: the host holds one of them and a copy in
    our order of axes, or `BUFFER` bytes of small ones. Every host reads all of them; of a converted directory, it reads
    what its devices hold.
    """
    table = tensor_targets(config)
    base = base_directory(directory)
    tensors = open_tensors(fetch(base, "*.json", "*.safetensors"), released_name)
    if base != as_path(directory):
        tensors = merged_tensors(fetch(directory, "*.json", "*.safetensors"), tensors, released_name)
    _check(table, tensors, directory)
    stored: dict[tuple[str, ...], list[tuple[TensorTarget, StoredTensor]]] = {}
    for name, target in table.items():
        stored.setdefault(target.path, []).append((target, tensors[name]))
    where = dict(nnx.to_flat_state(shardings)) if shardings is not None else {}
    for path, variable in nnx.to_flat_state(abstract):
        sharding = where[path].get_value() if path in where else None
        yield path, variable.replace(_load(stored[path], variable.shape, variable.dtype, sharding))


def write_parameters(
    directory: str | os.PathLike, config: Config, parameters: Mapping[tuple, Any], max_shard_size: int | str
) -> None:
    """Writes config.json and safetensors that `transformers` loads; a reader never sees a half-written file.

    All processes call it together, the main one writes. The host holds one tensor at a time.

    Args:
      directory: made if missing; its older weight files are replaced.
      parameters: by path, in the dtype they are written in; layers are taken from a stack by their index.
      max_shard_size: bytes of one file, or a string such as "5GB". A tensor is never split.
    """
    directory = as_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    table = tensor_targets(config)
    layout = {name: (target.shape, np.dtype(parameters[target.path].dtype)) for name, target in table.items()}
    shards = _plan({name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in layout.items()}, max_shard_size)
    if not is_main():  # what lies on several hosts they gather together; one of them writes
        for name in itertools.chain.from_iterable(shards.values()):
            _fetch(parameters, table[name])
        return
    with tempfile.TemporaryDirectory(dir=None if is_remote(directory) else directory, prefix=".writing-") as scratch:
        scratch = pathlib.Path(scratch)
        total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())
        weight_map = {name: file for file, names in shards.items() for name in names}
        dtype = str(parameters["language", "embedding"].dtype)
        _write_json(scratch / "config.json", config.to_hf() | {"dtype": dtype, "torch_dtype": dtype})
        if len(shards) > 1:
            _write_json(scratch / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        for file, names in shards.items():
            arrays = (table[name].to_released(_fetch(parameters, table[name])) for name in names)
            write_tensors(scratch / file, {name: layout[name] for name in names}, arrays)
        stale = {path.name for path in directory.glob("model*.safetensors")} | {INDEX}
        for file in sorted(os.listdir(scratch), key=lambda name: name == INDEX):  # the index last
            move(scratch / file, directory / file)
            stale.discard(file)
        for file in stale:
            (directory / file).unlink(missing_ok=True)


def merged_parameters(model: nnx.Module) -> dict[tuple, Any]:
    """The parameters of the model without adapters that computes the same, by path: arrays, or a `MergedKernel`.

    Merging waits until a layer is taken by its index, so that the model is not in memory twice.
    """
    flat = {path: variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    plain = {path: array for path, array in flat.items() if ADAPTER not in path}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Adapter):
            linear = path[:-1]
            kernel = plain[*linear, "kernel"]
            plain[*linear, "kernel"] = MergedKernel(kernel, flat[*path, "a"], flat[*path, "b"], module.scale)
    return plain


@functools.partial(jax.tree_util.register_dataclass, data_fields=["kernel", "a", "b"], meta_fields=["scale"])
@dataclasses.dataclass(frozen=True)
class MergedKernel:
    """A stack of kernels and the `a` and `b` of its adapter; layer i of it is kernel[i] + scale * a[i] @ b[i]."""

    kernel: Array
    a: Array
    b: Array
    scale: float

    @property
    def dtype(self) -> jnp.dtype:
        return self.kernel.dtype

    def __getitem__(self, layer: int) -> Array:
        kernel = self.kernel[layer].astype(jnp.float32)
        return (kernel + self.scale * jnp.tensordot(self.a[layer], self.b[layer], axes=1)).astype(self.dtype)


def parse_size(size: int | str) -> int:
    """Bytes of 5_000_000_000, "5GB", "500MB" or "64KB"."""
    if isinstance(size, int):
        return size
    if not (match := re.fullmatch(r"(\d+)\s*(KB|MB|GB|TB)", size.strip().upper())):
        raise UserError(f"max_shard_size {size!r} is neither a number of bytes nor a size such as '5GB'")
    return int(match[1]) * 1000 ** (1 + ("KB", "MB", "GB", "TB").index(match[2]))


def _load(stored: list[tuple[TensorTarget, StoredTensor]], shape: tuple[int, ...], dtype, sharding: Sharding | None):
    """One parameter, on its devices; a large stack of layers is filled a few at a time."""

    types = {tensor.dtype for _, tensor in stored}
    type_read = types.pop() if len(types) == 1 else np.dtype(dtype)

    def put(part: list[tuple[TensorTarget, StoredTensor]], shape: tuple[int, ...]) -> jax.Array:
        if part[0][0].layer is None:
            [(target, tensor)] = part
            host = np.ascontiguousarray(target.to_ours(tensor.read(), shape))
        else:
            host = np.empty(shape, type_read)
            for layer, (target, tensor) in enumerate(part):
                host[layer] = target.to_ours(tensor.read(), shape[1:])
        if sharding is None:
            return jnp.asarray(host)
        return jax.make_array_from_callback(shape, sharding, lambda index: host[index])

    layers = len(stored)
    most = max(1, BUFFER * layers // (math.prod(shape) * type_read.itemsize))
    if layers <= most:
        whole = put(stored, shape)
        return whole if whole.dtype == dtype else _cast(whole, dtype, sharding)
    stack = jnp.zeros(shape, dtype, device=sharding)
    for start in range(0, layers, most):
        part = stored[start : start + most]
        stack = _insert(stack, put(part, (len(part), *shape[1:])), start, sharding)
        stack.block_until_ready()  # or the host would read on while earlier layers still wait for their devices
    return stack


@functools.partial(jax.jit, static_argnames=("dtype", "sharding"))
def _cast(array: jax.Array, dtype, sharding: Sharding | None) -> jax.Array:
    array = array.astype(dtype)
    return array if sharding is None else jax.lax.with_sharding_constraint(array, sharding)


@functools.partial(jax.jit, donate_argnums=0, static_argnames="sharding")
def _insert(stack: jax.Array, layers: jax.Array, start: int, sharding: Sharding | None) -> jax.Array:
    stack = jax.lax.dynamic_update_slice_in_dim(stack, layers.astype(stack.dtype), start, 0)
    return stack if sharding is None else jax.lax.with_sharding_constraint(stack, sharding)


@jax.jit
def _layer(stack: Any, index: int) -> jax.Array:
    return stack[index]


def _fetch(parameters: Mapping[tuple, Any], target: TensorTarget) -> np.ndarray:
    """A tensor from the devices, in our order of axes; of a copy there, since an array keeps what was fetched of it."""
    parameter = parameters[target.path]
    return to_host(jnp.copy(parameter) if target.layer is None else _layer(parameter, target.layer))


def _plan(sizes: Mapping[str, int], max_shard_size: int | str) -> dict[str, list[str]]:
    """Assigns tensors to files, by file name."""
    limit = parse_size(max_shard_size)
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if groups[-1] and held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, 1)}


def _check(table: dict[str, TensorTarget], tensors: dict[str, StoredTensor], directory) -> None:
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if head not in table and head in tensors and embedding in tensors:  # a tied head some tools write out
        if not np.array_equal(tensors.pop(head).read(), tensors[embedding].read()):
            raise CheckpointError(f"{directory}: {head} differs from {embedding}, but config.json ties them")
    for kind, names in (("lacks", table.keys() - tensors.keys()), ("has unknown", tensors.keys() - table.keys())):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise CheckpointError(f"{directory} {kind} tensors {', '.join(sorted(names)[:8])}{more}")
    for name, target in table.items():
        if tensors[name].shape != target.shape:
            _check_vocabulary(name, tensors[name].shape, target.shape, directory)
            raise CheckpointError(
                f"{directory}: {name} has shape {list(tensors[name].shape)}, config.json makes it {list(target.shape)}"
            )


def _check_vocabulary(name: str, shape: tuple[int, ...], expected: tuple[int, ...], directory) -> None:
    """Raises a `CheckpointError` that explains an embedding or head whose number of rows is not config.json's."""
    if name in ("model.embed_tokens.weight", "lm_head.weight") and shape[1:] == expected[1:]:
        raise CheckpointError(
            f"{directory}: {name} has shape {list(shape)}, config.json makes it {list(expected)}: the embeddings were"
            f" resized after config.json was written; where vocab_size is {expected[0]} in it, write {shape[0]}"
        )


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


__all__ = [
    "CheckpointError",
    "tensor_targets",
    "read_config",
    "stored_dtype",
    "read_parameters",
    "released_name",
    "write_parameters",
]
