"""The decoder: embeddings to hidden states, over whole sequences or against a cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pixel_reasoner_jax.models.attention import attention
from pixel_reasoner_jax.models.cache import Cache, Pages, Reads, empty_cache
from pixel_reasoner_jax.models.config import Config
from pixel_reasoner_jax.models.layers import (
    WITHIN,
    Linear,
    RMSNorm,
    Rotation,
    SwiGLU,
    frequencies,
    rotate,
    scan,
    scan_layers,
    stack,
)
from pixel_reasoner_jax.models.quantized_cache import QuantizedCache, Ranges, largest
from pixel_reasoner_jax.parallel.sharding import constrain, map_parts, parts


def token_embedding(config: Config, key: Array, param_dtype: DTypeLike) -> nnx.Param:
    """A vector for every token, [vocab, size]."""
    shape = config.vocab_size, config.hidden_size
    return nnx.Param(config.initializer_range * jax.random.normal(key, shape, param_dtype), axes=("vocab", "embed"))


class DecoderLayer(nnx.Module):
    def __init__(self, config: Config, *, rngs, dtype, param_dtype):
        options = dict(rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        size, head = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.norm1 = RMSNorm(size, eps=config.rms_norm_eps, param_dtype=param_dtype)
        self.query = Linear((size,), (heads, head), ("embed", "heads", "head"), bias=True, **options)
        self.key = Linear((size,), (kv_heads, head), ("embed", "kv_heads", "head"), bias=True, **options)
        self.value = Linear((size,), (kv_heads, head), ("embed", "kv_heads", "head"), bias=True, **options)
        self.out = Linear((heads, head), (size,), ("heads", "head", "embed"), bias=False, **options)
        self.norm2 = RMSNorm(size, eps=config.rms_norm_eps, param_dtype=param_dtype)
        self.mlp = SwiGLU(size, config.intermediate_size, bias=False, **options)

    def project(self, x: Float[Array, "batch tokens size"], rotation: Rotation) -> tuple[Array, Array, Array]:
        """Rotated queries [batch, tokens, heads, head] and keys, and values [batch, kv_heads, tokens, head]."""
        query, key, value = self.norm1.project(x, self.query, self.key, self.value)
        return rotate(query, rotation), rotate(key, rotation).swapaxes(1, 2), value.swapaxes(1, 2)

    def finish(self, x: Float[Array, "batch tokens size"], attended: Array, mesh) -> Float[Array, "batch tokens size"]:
        """The rest of a layer: the output projection, the MLP and their residuals."""
        x = constrain(x + self.out(attended), WITHIN, mesh)
        return x + self.mlp(x, self.norm2)


class Decoder(nnx.Module):
    """Qwen2.5 decoder with multimodal rotary positions (M-RoPE; Wang et al., 2024, Qwen2-VL)."""

    def __init__(self, config: Config, *, rngs, dtype, param_dtype, mesh=None):
        options = dict(rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.config = config
        self.mesh = mesh
        self.dtype = dtype
        self.embedding = token_embedding(config, rngs.params(), param_dtype)
        self.layers = stack(DecoderLayer, config.num_hidden_layers, config, **options)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, param_dtype=param_dtype)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch size"]:
        return self.embedding[...][tokens].astype(self.dtype)

    def rotation(self, positions: Int[Array, "3 batch tokens"]) -> Rotation:
        """cos and sin of the angles; each section of the frequencies turns with time, height or width."""
        section = jnp.repeat(jnp.arange(3), jnp.array(self.config.mrope_section), total_repeat_length=self._half)
        turning = jnp.moveaxis(positions, 0, -1)[..., section].astype(jnp.float32)
        angles = turning * frequencies(2 * self._half, self.config.rope_theta)
        return jnp.cos(angles), jnp.sin(angles)

    def __call__(
        self,
        x: Float[Array, "batch tokens size"],
        positions: Int[Array, "3 batch tokens"],
        segments: Int[Array, "batch tokens"],
        *,
        remat: str = "none",
    ) -> Float[Array, "batch tokens size"]:
        """Hidden states after the final norm; a token attends to its own segment, up to itself."""
        rotation = self.rotation(positions)
        graph, layers = nnx.split(self.layers)

        def apply(x, layer):
            layer = nnx.merge(graph, layer)
            query, key, value = layer.project(x, rotation)
            attended = attention(query, key, value, segments, causal=True, mesh=self.mesh)
            return layer.finish(x, attended, self.mesh)

        # Whole along tensor first, or looking tokens up and its gradient would be divided as layers' inputs are.
        x = constrain(x.astype(self.dtype), WITHIN, self.mesh)
        return self.norm(scan_layers(apply, x, layers, remat=remat, mesh=self.mesh))

    def init_cache(
        self, pages: int, page: int, items: int, dtype: DTypeLike | None = None, ranges: Ranges | None = None
    ) -> Cache:
        """An empty cache; see `Qwen2_5_VL.init_cache`."""
        config = self.config
        heads = config.num_attention_heads, config.num_key_value_heads
        dtype = jnp.dtype(self.dtype if dtype is None else dtype)
        layers = config.num_hidden_layers
        cache = empty_cache(layers, pages, page, heads, config.head_dim, dtype, items, self.mesh)
        if dtype != jnp.int8:
            return cache
        cache = QuantizedCache.of(cache, ranges, parts(self.mesh))
        axes = (*cache.AXES, None)
        placed = (constrain(scale, axes, self.mesh) for scale in (cache.key_scale, cache.value_scale))
        return QuantizedCache(cache.cache, *placed)

    def ranges(self, tokens: Int[Array, " tokens"]) -> Ranges:
        """The ranges of keys and values in a text, by which a cache of int8 is scaled."""
        count = parts(self.mesh)  # all do the same
        x = constrain(jnp.repeat(self.embed(tokens)[None], count, axis=0), WITHIN, self.mesh)
        rotation = self.rotation(jnp.broadcast_to(jnp.arange(len(tokens)), (3, count, len(tokens))))
        segments = jnp.ones(x.shape[:2], jnp.int32)
        graph, layers = nnx.split(self.layers)

        def apply(x, layer):
            layer = nnx.merge(graph, layer)
            query, key, value = layer.project(x, rotation)
            attended = attention(query, key, value, segments, causal=True, mesh=self.mesh)
            return layer.finish(x, attended, self.mesh), largest(key, value)

        return scan(apply, x, layers)[1]

    def extend(
        self,
        x: Float[Array, "batch tokens size"],
        positions: Int[Array, "3 batch tokens"],
        counts: Int[Array, " batch"],
        cache: Cache,
        pages: Pages,
        reads: Reads | None = None,
    ) -> tuple[Float[Array, "batch tokens size"], Cache]:
        """Appends the first `counts` tokens of each row to its pages; see `Qwen2_5_VL.extend`."""
        rotation = self.rotation(positions)
        step = jnp.arange(x.shape[1])
        index = pages.starts[:, None] + step
        is_real = step < counts[:, None]
        # Padding may see the last real token: it costs no page of its own.
        last_key = jnp.where(counts > 0, pages.starts + counts - 1, 0)[:, None]
        last_key = jnp.minimum(index, last_key)
        graph, layers = nnx.split(self.layers)

        def attend(layer, query, key, value, cache, index, is_real, last_key, pages, reads):
            count, size = cache.stored[0].shape[1], cache.page
            # What is not a real token goes past the last page, where a scatter drops it.
            page = jnp.take_along_axis(pages.table, index // size, axis=1, mode="fill", fill_value=count)
            cache = cache.write(layer, key, value, jnp.where(is_real, page, count), index % size)
            flat = query.reshape(*query.shape[:2], -1, query.shape[-1])
            out, cache = cache.attend(layer, flat, last_key, pages, reads)
            return out.reshape(query.shape), cache

        new, rows = ("batch", "kv_heads"), ("batch",)
        axes = [(), ("batch", None, "kv_heads"), new, new, cache.AXES, *[rows] * 5]
        attend = map_parts(attend, self.mesh, axes, like=(1, 4))

        def apply(carry, inputs):
            x, cache = carry
            number, layer = inputs
            layer = nnx.merge(graph, layer)
            query, key, value = layer.project(x, rotation)
            grouped = query.reshape(*query.shape[:2], key.shape[1], -1, query.shape[-1])
            attended, cache = attend(number, grouped, key, value, cache, index, is_real, last_key, pages, reads)
            x = layer.finish(x, attended.reshape(query.shape), self.mesh)
            return (constrain(x, WITHIN, self.mesh), cache), None

        numbers = jnp.arange(self.config.num_hidden_layers)
        (x, cache), _ = scan(apply, (x.astype(self.dtype), cache), (numbers, layers))
        return self.norm(x), cache

    @property
    def _half(self) -> int:
        return self.config.head_dim // 2
