"""Keys and values in int8: half the bytes of bfloat16, so that memory holds twice the tokens, and reads them in half.

Some channels of Qwen2.5's keys are a hundred times as large as others, whatever the token. So each channel is rounded
by a scale of its own, the same for all tokens: it is taken out of the keys, and into the queries, which are multiplied
by it before the attention, as the attended values are after it. What a cache stores is then rounded numbers alone, and
every layout of the cache, JAX's kernel for TPU too, reads them as it reads others.

The scales follow from the parameters: from the largest keys and values of a fixed text (`ranges`). They must not depend
on what is being answered, or a response would depend on its company.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pixel_reasoner_jax.models.cache import Cache

LARGEST = 127
# How far beyond those of the fixed text keys and values may lie, as images' do; what lies farther is cut off there. Of
# the quickstart's models, 3 changes log-probabilities least: by 0.02 on average, 2 and 6 by twice as much.
MARGIN = 3.0


class Ranges(NamedTuple):
    """The largest absolute values that were seen, [layers, kv_heads, size], of keys and of values.

    Those of two channels that a rotation turns into each other are one: at another position, each may be as large.
    """

    key: Float[Array, "layers kv_heads size"]
    value: Float[Array, "layers kv_heads size"]


def largest(
    key: Float[Array, "batch kv_heads tokens size"], value: Float[Array, "batch kv_heads tokens size"]
) -> Ranges:
    """The ranges of a layer's rotated keys and of its values, [kv_heads, size]."""
    key, value = key.astype(jnp.float32), value.astype(jnp.float32)
    first, second = jnp.split(key, 2, axis=-1)
    turned = jnp.hypot(first, second).max((0, 2))
    return Ranges(jnp.concatenate([turned, turned], axis=-1), jnp.abs(value).max((0, 2)))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["cache", "key_scale", "value_scale"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class QuantizedCache(Cache):
    """A cache of int8, whose numbers stand for so many times their channel's scale.

    Attributes:
      cache: holds the numbers.
      key_scale, value_scale: float32, [layers, parts of the mesh, ..., kv_heads, size], with one entry in each part
        and axes of size 1 where the cache has others, so that they are divided over a mesh as it is.
    """

    cache: Cache
    key_scale: Array
    value_scale: Array

    @classmethod
    def of(cls, cache: Cache, ranges: Ranges, parts: int) -> QuantizedCache:
        """An empty cache of int8 with scales for such ranges, on a mesh of so many parts."""

        def scale(found: Array) -> Array:
            between = (1,) * (len(cache.AXES) - 3)
            found = jnp.where(found > 0, found, 1.0) * (MARGIN / LARGEST)
            found = found.reshape(found.shape[0], 1, *between, *found.shape[1:])
            return jnp.repeat(found, parts, axis=1)

        return cls(cache, *map(scale, ranges))

    @property
    def AXES(self):
        return self.cache.AXES

    @property
    def stored(self):
        return self.cache.stored

    @property
    def page(self):
        return self.cache.page

    def with_stored(self, stored):
        return dataclasses.replace(self, cache=self.cache.with_stored(stored))

    def write(self, layer, key, value, page, offset):
        key, value = (
            jnp.clip(jnp.round(x / _of_layer(scale, layer)[:, None]), -LARGEST, LARGEST)
            for x, scale in ((key, self.key_scale), (value, self.value_scale))
        )
        return dataclasses.replace(self, cache=self.cache.write(layer, key, value, page, offset))

    def attend(self, layer, query, last_key, pages, reads):
        rows, tokens, heads, size = query.shape
        by_head = (rows, tokens, self.key_scale.shape[-2], -1, size)  # of keys, and the queries that read it

        def scaled(x: Array, scale: Array) -> Array:
            scaled = x.reshape(by_head) * _of_layer(scale, layer)[:, None]
            return scaled.reshape(x.shape).astype(x.dtype)

        attended, cache = self.cache.attend(layer, scaled(query, self.key_scale), last_key, pages, reads)
        return scaled(attended, self.value_scale), dataclasses.replace(self, cache=cache)


def _of_layer(scale: Array, layer: Array) -> Float[Array, "kv_heads size"]:
    """The scales of a layer, within a part of the mesh."""
    return jax.lax.dynamic_index_in_dim(scale, layer, keepdims=False).reshape(scale.shape[-2:])
