"""Low-rank adapters as PEFT saves them (https://github.com/huggingface/peft), merged into the model's tensors.

A tensor is merged when it is read, so that the host holds no more than one of them. Which modules an adapter changes,
its file's tensors say; of the many forms that adapter_config.json can ask for, those that are no product of two
matrices added to a weight are refused by their keys.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pixel_reasoner_jax.errors import CheckpointError, shown
from pixel_reasoner_jax.model_files import ADAPTER_CONFIG, adapter_config
from pixel_reasoner_jax.models.tensors import StoredTensor, open_file

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in the file
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.default)?(\.weight)?")
WRAPPED = re.compile(r"\.(modules_to_save(\.default)?|base_layer|original_module)(?=\.)")  # layers of PEFT's own
UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "alora_invocation_tokens",
    "target_parameters",
    "trainable_token_indices",
    "arrow_config",
)
CHANGES_THE_MODEL = (
    "pissa",
    "olora",
    "loftq",
    "corda",
    "lora_ga",
)  # initial values, taken out of the model's own weights
MERGE = "merge it with PEFT's merge_and_unload, save the result with save_pretrained, and give that folder"


@dataclasses.dataclass(frozen=True)
class MergedTensor:
    """A weight with its adapter: weight + scale * b @ a, in float32.

    Attributes:
      weight: [outputs, inputs...]; an embedding is [tokens, size].
      a: [rank, inputs...]; of an embedding [rank, tokens].
      b: [outputs, rank], with ones after these if the weight has axes after its second; of an embedding [size, rank].
      scale: see above.
      embedding: whether it is one; the product is transposed.
    """

    weight: StoredTensor
    a: StoredTensor
    b: StoredTensor
    scale: float
    embedding: bool

    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def read(self) -> np.ndarray:
        a = self.a.read().astype(np.float32).reshape(self.a.shape[0], -1)
        b = self.b.read().astype(np.float32).reshape(self.b.shape[0], -1)
        a *= self.scale
        merged = a.T @ b.T if self.embedding else (b @ a).reshape(self.shape)
        merged += self.weight.read()
        return merged


def merged_tensors(
    directory: pathlib.Path, tensors: Mapping[str, StoredTensor], rename: Callable[[str], str]
) -> dict[str, StoredTensor | MergedTensor]:
    """The tensors of a model with those of an adapter's folder merged into them, or in their place.

    Args:
      directory: holds adapter_config.json and adapter_model.safetensors.
      tensors: of the model, by the names that `rename` gives them.
      rename: of the names that the adapter's file has for the model's tensors.

    Raises:
      CheckpointError: an adapter of another kind, or one that does not fit the model; the message names key or tensor.
    """
    config = adapter_config(directory)
    _check_config(config, directory / ADAPTER_CONFIG)
    path = directory / WEIGHTS
    if not path.exists():
        raise CheckpointError(
            f"{directory} holds {ADAPTER_CONFIG} and no {WEIGHTS}: save the adapter with PEFT's save_pretrained, as"
            " safetensors, and all of it"
        )
    merged: dict[str, StoredTensor | MergedTensor] = dict(tensors)
    factors: dict[tuple[str, bool], dict[str, StoredTensor]] = {}
    for key, tensor in open_file(path).items():
        name = key.removeprefix(PREFIX)
        if match := FACTOR.fullmatch(name):
            module = match["module"], match["embedding"] is not None
            factors.setdefault(module, {})[match["factor"]] = tensor
            continue
        name = rename(WRAPPED.sub("", name))
        # A head that the model ties to its embedding may be saved with it; whether they are equal is checked later.
        if name not in tensors and name != "lm_head.weight":
            raise CheckpointError(f"{path}: {key:.120} is no part of a plain LoRA adapter of this model; {MERGE}")
        merged[name] = tensor
    for (module, embedding), pair in factors.items():
        name, place = rename(f"{module}.weight"), f"{path}: the adapter of {module:.120}"
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{place} lacks its lora_{'B' if 'A' in pair else 'A'}")
        if name not in tensors:
            raise CheckpointError(f"{place} is of no module of the model: is it another model's?")
        weight, (a, b) = merged[name], (pair["A"], pair["B"])
        rank, scale = _rank_and_scale(config, module)
        _check_shapes(weight.shape, a.shape, b.shape, rank, embedding, place)
        merged[name] = MergedTensor(weight, a, b, scale, embedding)
    if merged == tensors:
        raise CheckpointError(f"{path} holds no tensors of an adapter")
    return merged


def _check_config(config: Mapping[str, Any], path: pathlib.Path) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise CheckpointError(f"{path}: peft_type is {shown(kind)}; of PEFT's adapters only LORA is read; {MERGE}")
    for key in UNSUPPORTED:
        if config.get(key):
            raise CheckpointError(f"{path}: {key} is {shown(config[key])}, which is not supported; {MERGE}")
    begun = str(config.get("init_lora_weights")).lower()
    if begun.startswith(CHANGES_THE_MODEL):
        raise CheckpointError(
            f"{path}: init_lora_weights is {shown(begun)}, which took the adapter out of the model's weights; {MERGE}"
        )
    for key, patterns in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        mapping = config.get(patterns) or {}
        if not isinstance(mapping, dict):
            raise CheckpointError(f"{path}: {patterns} is {shown(mapping)}; it maps modules to numbers")
        for value in (config.get(key), *mapping.values()):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                raise CheckpointError(f"{path}: {key} or {patterns} has {shown(value)}; it must be a number above 0")
        for pattern in mapping:
            try:
                re.compile(pattern)
            except re.error as error:
                raise CheckpointError(f"{path}: {patterns} has {shown(pattern)}: {error}") from None


def _rank_and_scale(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """The rank of a module's adapter, and what its product is multiplied by."""

    def of(key: str, patterns: str) -> float:
        for pattern, value in (config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return config[key]

    rank, alpha = of("r", "rank_pattern"), of("lora_alpha", "alpha_pattern")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_shapes(weight: tuple, a: tuple, b: tuple, rank: float, embedding: bool, place: str) -> None:
    if len(a) < 2 or len(b) < 2 or a[0] != rank or b[1] != rank:
        raise CheckpointError(f"{place} has shapes {list(a)} and {list(b)}; its rank in {ADAPTER_CONFIG} is {rank}")
    got = (a[1], b[0]) if embedding else (b[0], *a[1:])
    if got != weight or math.prod(b[2:]) != 1:
        raise CheckpointError(f"{place} is for a weight of shape {list(got)}; the model's is {list(weight)}")
