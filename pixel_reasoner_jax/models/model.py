"""Qwen2.5-VL: vision tower, decoder and head over plain arrays."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models import weights
from pixel_reasoner_jax.models.cache import Cache, Pages, Reads
from pixel_reasoner_jax.models.config import Config
from pixel_reasoner_jax.models.language import Decoder, token_embedding
from pixel_reasoner_jax.models.quantized import Quantized
from pixel_reasoner_jax.models.quantized_cache import Ranges
from pixel_reasoner_jax.models.tensors import DTYPES
from pixel_reasoner_jax.models.vision import VisionTower
from pixel_reasoner_jax.parallel.sharding import check_sizes, constrain, map_parts, param_shardings

# What of the vision tower and of the decoder the backward pass computes again.
REMAT = {
    "none": ("none", "none"),
    "vision": ("full", "none"),
    "dots": ("dots", "dots"),
    "full": ("full", "full"),
    "groups": ("groups", "full"),
}


class Qwen2_5_VL(nnx.Module):
    """Qwen2.5-VL (Bai et al., 2025).

    Everything is a pure function of parameters and arrays: split once, `graph, params = nnx.split(model)`, and use
    `nnx.merge(graph, params)` inside `jax.jit`.

    Args:
      config: the sizes.
      rngs: random keys of the initial parameters.
      dtype: type of the computation; norms, angles, softmax and logits stay float32.
      param_dtype: type of the parameters.
      remat: what the backward pass recomputes: "none", "full" (all but layer inputs), "dots" (all but matrix products
        and attention), "vision" (the tower's layers as "full", which keep much and compute little; the decoder's as
        "none") or "groups" ("full", but of every so many of the tower's layers, 8 in the released sizes, the first's
        input alone: they are computed twice again).
        It may be set later, before the model is split.
      mesh: devices that intermediate values are laid out on. It does not move parameters: `create` and
        `from_pretrained` do.

    Raises:
      MeshError: the mesh does not divide the heads, or another size of the model.
    """

    def __init__(
        self,
        config: Config,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        mesh: Mesh | None = None,
    ):
        if mesh is not None:
            check_sizes(config.divisible, mesh.shape)
        options = dict(rngs=rngs, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(param_dtype))
        self.config = config
        self.remat = remat
        self.mesh = mesh
        self.vision = VisionTower(config.vision, mesh=mesh, **options)
        self.language = Decoder(config, mesh=mesh, **options)
        tied = config.tie_word_embeddings
        self.head = None if tied else token_embedding(config, rngs.params(), options["param_dtype"])

    @classmethod
    def create(cls, config: Config, seed: int = 0, *, mesh: Mesh | None = None, **options) -> Qwen2_5_VL:
        """A model with random parameters, made in one compiled program, on its mesh from the start.

        Args:
          config, mesh: see the class; `options` are its other ones (dtype, param_dtype, remat).
          seed: of the parameters.
        """

        def build(key):
            return cls(config, rngs=nnx.Rngs(key), mesh=mesh, **options)

        key = jax.random.key(seed)
        graph, abstract = nnx.split(nnx.eval_shape(build, key))
        shardings = None if mesh is None else param_shardings(abstract, mesh)
        return nnx.merge(graph, jax.jit(lambda key: nnx.split(build(key))[1], out_shardings=shardings)(key))

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike,
        dtype: DTypeLike = "float32",
        mesh: Mesh | None = None,
        *,
        param_dtype: DTypeLike | None = None,
        remat: str = "none",
    ) -> Qwen2_5_VL:
        """Reads config.json and safetensors, of Hugging Face's or of ours.

        Args:
          directory: holds config.json and model.safetensors, or several files and their index; or an adapter as PEFT
            saves it, which is merged into the model that its adapter_config.json names.
          dtype: type of the computation, and of the parameters unless `param_dtype` is given.
          mesh: each parameter is put where `parallel.sharding` says; None: all on the default device.
          remat: see the class.

        Raises:
          ModelConfigError: a configuration this model does not implement.
          CheckpointError: a missing, unknown or misshapen tensor, named in the message, or a damaged file.
          UserError: an unknown type.
        """
        types = dict(dtype=dtype, param_dtype=dtype if param_dtype is None else param_dtype)
        for key, value in types.items():
            _check_type(key, value)
        config = weights.read_config(directory)
        model = nnx.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0), remat=remat, mesh=mesh, **types))
        graph, abstract = nnx.split(model)
        shardings = None if mesh is None else param_shardings(abstract, mesh)
        return nnx.merge(graph, weights.read_parameters(directory, config, abstract, shardings))

    def save_pretrained(self, directory: str | os.PathLike, max_shard_size: int | str = "5GB") -> None:
        """Writes config.json and safetensors, which `transformers` loads, in the parameters' type; adapters are merged.

        Args:
          directory: made if missing; older weights in it are replaced.
          max_shard_size: bytes of one file, or a string such as "5GB".
        """
        weights.write_parameters(directory, self.config, weights.merged_parameters(self), max_shard_size)

    def compute_on(self, mesh: Mesh | None) -> None:
        """Has intermediate values laid out on another mesh, which divides the model's sizes (`check_sizes`)."""
        self.mesh = self.vision.mesh = self.language.mesh = mesh

    def __call__(self, batch: dict) -> Float[Array, "batch tokens vocab"]:
        """Float32 logits of a batch: tokens, positions, segment_ids, vision_index, vision (a dict or None)."""
        vision = None if batch.get("vision") is None else self.encode_vision(batch["vision"])
        x = self.embed(batch["tokens"], batch.get("vision_index"), vision)
        return self.logits(self.hidden_states(x, batch["positions"], batch["segment_ids"]))

    def encode_vision(self, vision: dict) -> Float[Array, "vision_tokens size"]:
        """Embeddings of all merged patches, row after row, padding included.

        Args:
          vision: patches uint8 [rows, patches, values], scaling float32 [rows, 2, channels], patch_positions int
            [rows, patches, 2] (row, column) and patch_segments int [rows, patches], in window layout (see
            `VisionTower`).
        """
        remat, _ = self._policies()
        arrays = (vision[name] for name in ("patches", "scaling", "patch_positions", "patch_segments"))
        return self.vision(*arrays, remat=remat)

    def embed(
        self,
        tokens: Int[Array, "batch tokens"],
        vision_index: Int[Array, "batch tokens"] | None = None,
        vision_embeddings: Float[Array, "*shards vision_tokens size"] | None = None,
    ) -> Float[Array, "batch tokens size"]:
        """Token embeddings; where `vision_index` is not negative, that row of `vision_embeddings` instead.

        With an axis of shards, the batch's rows belong to them in order, and the index counts within the shard:
        on a mesh whose parts (`parallel.parts`) divide the shards, no device then needs another's images.
        """
        x = self.language.embed(tokens)
        if vision_index is None or vision_embeddings is None:
            return x
        index = jnp.maximum(vision_index, 0)
        if vision_embeddings.ndim == 2:
            seen = vision_embeddings[index]
        else:
            seen = map_parts(_take, self.mesh, [("batch",)] * 2, like=1)(vision_embeddings, index)
        seen = seen.astype(x.dtype)
        return jnp.where(vision_index[..., None] >= 0, seen, x)

    def hidden_states(
        self,
        embeddings: Float[Array, "batch tokens size"],
        positions: Int[Array, "3 batch tokens"],
        segment_ids: Int[Array, "batch tokens"],
    ) -> Float[Array, "batch tokens size"]:
        """The decoder's states after the final norm; a token attends causally within its own segment."""
        _, remat = self._policies()
        return self.language(embeddings, positions, segment_ids, remat=remat)

    def init_cache(
        self, pages: int, page: int, items: int = 0, dtype: DTypeLike | None = None, ranges: Ranges | None = None
    ) -> Cache:
        """An empty cache of keys and values.

        Args:
          pages: how many.
          page: tokens of one; see `cache.page_size`.
          items: the most pages that `cache.Reads` list.
          dtype: what is stored; None: what the model computes in.
          ranges: for int8, see `ranges`.
        """
        return self.language.init_cache(pages, page, items, dtype, ranges)

    def ranges(self, tokens: Int[Array, " tokens"]) -> Ranges:
        """The largest keys and values of a text, by which a cache of int8 is scaled; see `quantized_cache`."""
        return self.language.ranges(tokens)

    def extend(
        self,
        embeddings: Float[Array, "batch tokens size"],
        positions: Int[Array, "3 batch tokens"],
        counts: Int[Array, " batch"],
        cache: Cache,
        pages: Pages,
        reads: Reads | None = None,
    ) -> tuple[Float[Array, "batch tokens size"], Cache]:
        """Appends tokens to the rows of a cache, attending to all before them.

        Args:
          embeddings, positions: the new tokens, right padded.
          counts: how many of each row are real; 0 leaves a row as it is. Tokens past the row's pages are not stored.
          cache: donate it to the jitted function this runs in, and it is updated in place.
          pages: where the rows lie. On a mesh the numbers count within the part of the pages that lies where the row
            lies.
          reads: for one token a row, the pages to read, those of the new tokens included, listed so that the time
            follows their number; a row that is not listed has no meaning. None: each row's, as far as the longest goes.

        Returns:
          States after the final norm (without meaning for padding), and the cache.
        """
        return self.language.extend(embeddings, positions, counts, cache, pages, reads)

    def _policies(self) -> tuple[str, str]:
        """`self.remat` for the tower and for the decoder."""
        if self.remat not in REMAT:
            raise UserError(f"unknown remat policy {self.remat!r}; there are {', '.join(REMAT)}")
        return REMAT[self.remat]

    def output_embedding(self) -> Float[Array, "vocab size"]:
        """What states are multiplied with for logits: the tokens' embeddings or its own, in the parameters' type."""
        return self.language.embedding[...] if self.head is None else self.head[...]

    def logits(self, hidden: Float[Array, "*batch size"]) -> Float[Array, "*batch vocab"]:
        """Float32 logits of states."""
        embedding = self.output_embedding()
        if isinstance(embedding, Quantized):
            logits = embedding.product(hidden, [1], jnp.float32)
        else:
            embedding = embedding.astype(hidden.dtype)
            logits = jnp.einsum("...h,vh->...v", hidden, embedding, preferred_element_type=jnp.float32)
        return constrain(logits, ("batch", *(None,) * (logits.ndim - 2), "vocab"), self.mesh)


def _take(
    embeddings: Float[Array, "shards vision_tokens size"], index: Int[Array, "batch tokens"]
) -> Float[Array, "batch tokens size"]:
    by_shard = index.reshape(len(embeddings), -1)
    return jax.vmap(lambda rows, index: rows[index])(embeddings, by_shard).reshape(*index.shape, -1)


def _check_type(key: str, value: DTypeLike) -> None:
    known = [str(dtype) for dtype in DTYPES.values()]
    try:
        name = str(jnp.dtype(value))
    except TypeError:
        name = value
    if name not in known:
        raise UserError(f"{key} is {name!r}; known types are {', '.join(known)}")
