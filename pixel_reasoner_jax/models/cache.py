"""The cache of keys and values, in pages: what it holds of a response lies wherever pages were free.

Whoever allocates pages (the host, see `rollout.pages`) tells with every call which pages a row's tokens lie in. Rows
may name the same page: responses to one prompt share what is in memory once. `Cache` has two layouts, of which
`empty_cache` chooses by the platform, and the model knows neither.

On a mesh, pages are divided as rows are, and numbers of pages and rows count within each part.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pixel_reasoner_jax.models import kernels
from pixel_reasoner_jax.models.attention import cached_attention, platform_of
from pixel_reasoner_jax.parallel.sharding import Axes, constrain, parts

# Tokens of a page. Small pages waste little: half of one for each response. TPU's kernel holds the numbers of all pages
# in its scalar memory, which allows no more of them.
PAGE = {"tpu": 128}
DEFAULT_PAGE = 64

# Rows that read a page together, at most: it is taken from memory once for all of them.
SHARING = 8

# Keys of a cache that an extend reads at a time, at most. A turn of a loop costs a GPU some 40 microseconds whatever it
# does: on an H100, a decoding step of 3B over 4,096 tokens took 51 ms with 128 keys at a time, 27 with 1,024.
READ = {"gpu": 1024}
DEFAULT_READ = 128

# Listed pages that are read at a time, at most, for the same reason.
CHUNK = {"gpu": 1024}
DEFAULT_CHUNK = 64

KERNEL_HEAD = 128  # the kernel's head sizes are multiples of this
# What the kernel has at work at a time, within what JAX's table of tuned sizes has for pages of 128 tokens (4 to 16
# pages, 32 to 128 queries). It reads whole blocks: few pages waste little of the last one. And it multiplies a page
# with all queries at work, those of other rows too: fewer are at work where each is a row. Never timed on a TPU.
KERNEL_PAGES, KERNEL_QUERIES, KERNEL_ROWS = 4, 32, 8


class Pages(NamedTuple):
    """Where the tokens of each row lie.

    Attributes:
      starts: int32 [rows], tokens that the row holds already.
      table: int32 [rows, most], the pages of the row's tokens, in order; any pages after the last that it needs.
    """

    starts: Int[Array, " rows"]
    table: Int[Array, "rows most"]


class Reads(NamedTuple):
    """The pages that are read for rows of one token each, listed so that nothing else is read; in chunks.

    The pages of a row are listed in their order; within a chunk, it is in the same column of `rows` for all of them.

    Attributes:
      page: int32 [items], numbers of pages.
      first: int32 [items], the index, in its rows, of the page's first token.
      rows: int32 [items, SHARING], the rows that read the page; a number past the last row for none.
      columns: int32 [chunks], how many columns of `rows` are in use in the chunk; 0 for a chunk that is not.
    """

    page: Int[Array, " items"]
    first: Int[Array, " items"]
    rows: Int[Array, "items sharing"]
    columns: Int[Array, " chunks"]


class Cache:
    """Keys and values of tokens, in pages; see `empty_cache` for its layouts.

    Attributes:
      AXES: logical names of the leading axes of its arrays, the second of which is that of pages.
      stored: the arrays that hold keys and values, [layers, pages, ...].
      page: tokens of a page.
    """

    AXES: Axes
    stored: list[Array]
    page: int

    def with_stored(self, stored: list[Array]) -> Cache:
        """The cache with other arrays in the place of `stored`."""
        raise NotImplementedError

    def write(
        self,
        layer: Int[Array, ""],
        key: Float[Array, "rows kv_heads tokens size"],
        value: Float[Array, "rows kv_heads tokens size"],
        page: Int[Array, "rows tokens"],
        offset: Int[Array, "rows tokens"],
    ) -> Cache:
        """Writes the keys and values of tokens in a layer.

        Args:
          page: the page of each token; a number past the last page for a token that is not written.
          offset: its place in the page.
        """
        raise NotImplementedError

    def attend(
        self,
        layer: Int[Array, ""],
        query: Float[Array, "rows tokens heads size"],
        last_key: Int[Array, "rows tokens"],
        pages: Pages,
        reads: Reads | None,
    ) -> tuple[Float[Array, "rows tokens heads size"], Cache]:
        """The softmax attention of each row's queries over its pages in a layer.

        Args:
          last_key: index in its row of the last key that each query sees.
          reads: for rows of one token, what is to be read; None: what `pages` says.

        Returns:
          The attended values, and the cache.
        """
        raise NotImplementedError

    def copy(self, source: Int[Array, " copies"], target: Int[Array, " copies"]) -> Cache:
        """Copies pages in all layers, in place, one after the other; a target past the last page is left out."""

        def one(number, stored):
            return [_put_page(x, _take_page(x, source[number]), target[number]) for x in stored]

        return self.with_stored(jax.lax.fori_loop(0, len(target), one, self.stored))

    def save(self, numbers: Int[Array, " numbers"], into: list[Array]) -> list[Array]:
        """Takes pages out in all layers, one after the other.

        Args:
          into: what is overwritten; see `saved_shapes`.

        Returns:
          For each stored array [numbers, layers, ...], with the axes of one page.
        """

        def one(number, into):
            pages = [_take_page(x, numbers[number]).swapaxes(0, 1) for x in self.stored]
            return [
                jax.lax.dynamic_update_slice_in_dim(whole, page, number, 0)
                for whole, page in zip(into, pages, strict=True)
            ]

        return jax.lax.fori_loop(0, len(numbers), one, into)

    def load(self, numbers: Int[Array, " numbers"], saved: list[Array]) -> Cache:
        """Puts back what `save` has taken out, to the bit; a number past the last page is left out."""

        def one(number, stored):
            pages = [jax.lax.dynamic_slice_in_dim(x, number, 1, 0).swapaxes(0, 1) for x in saved]
            return [_put_page(x, page, numbers[number]) for x, page in zip(stored, pages, strict=True)]

        return self.with_stored(jax.lax.fori_loop(0, len(numbers), one, self.stored))

    def saved_shapes(self, numbers: int) -> list[jax.ShapeDtypeStruct]:
        """The shapes of what `save` returns for so many pages."""
        return [jax.ShapeDtypeStruct((numbers, x.shape[0], *x.shape[2:]), x.dtype) for x in self.stored]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["keys", "values", "scores"], meta_fields=["platform"])
@dataclasses.dataclass(frozen=True)
class PlainCache(Cache):
    """A cache that is read by XLA's operations, on any platform.

    Attributes:
      keys, values: [layers, pages, kv_heads, page, size]. bfloat16 is kept as uint16 on a CPU, whose compiler writes
        into bfloat16 by way of a float32 copy of all of it.
      scores: float32 [SHARING, items, kv_heads, group, page], where `attend` puts the scores of listed pages.
      platform: "cpu", "gpu" or "tpu".
    """

    AXES = (None, "batch", "kv_heads")

    keys: Array
    values: Array
    scores: Array
    platform: str

    @property
    def stored(self):
        return [self.keys, self.values]

    @property
    def page(self):
        return self.keys.shape[3]

    def with_stored(self, stored):
        return dataclasses.replace(self, keys=stored[0], values=stored[1])

    def write(self, layer, key, value, page, offset):
        def put(stored, new):
            new = new.swapaxes(1, 2)
            if stored.dtype == jnp.uint16:
                new = jax.lax.bitcast_convert_type(new.astype(jnp.bfloat16), jnp.uint16)
            return stored.at[layer, page, :, offset].set(new.astype(stored.dtype), mode="drop")

        return self.with_stored([put(self.keys, key), put(self.values, value)])

    def attend(self, layer, query, last_key, pages, reads):
        if reads is not None:
            out, scores = self._attend_listed(layer, query[:, 0], last_key[:, 0], reads)
            return out[:, None], dataclasses.replace(self, scores=scores)
        count = max(1, READ.get(self.platform, DEFAULT_READ) // self.page)
        table = jnp.pad(pages.table, ((0, 0), (0, -pages.table.shape[1] % count)))

        def read(turn):
            numbers = jax.lax.dynamic_slice_in_dim(table, turn * count, count, 1)
            return self._rows(self.keys, layer, numbers, query), self._rows(self.values, layer, numbers, query)

        return cached_attention(query, read, last_key, count * self.page), self

    def _rows(self, stored, layer, numbers, like):
        """The tokens of each row's pages, in their order: [rows, kv_heads, tokens, size], in the type of `like`."""
        taken = self._take(stored, layer, numbers.reshape(-1), like)
        taken = taken.reshape(*numbers.shape, *taken.shape[1:]).swapaxes(1, 2)
        return taken.reshape(*taken.shape[:2], -1, taken.shape[-1])

    def _take(self, stored, layer, numbers, like):
        """Pages of a layer, [numbers, kv_heads, page, size], in the type of `like`."""
        if self.platform == "tpu":  # where a gather from what a loop carries copies all of it
            sizes = (1, 1, *stored.shape[2:])
            slices = [jax.lax.dynamic_slice(stored, (layer, n, 0, 0, 0), sizes)[0] for n in numbers]
            taken = jnp.concatenate(slices)
        else:
            taken = stored[layer, numbers]
        if taken.dtype == jnp.uint16:
            taken = jax.lax.bitcast_convert_type(taken, jnp.bfloat16)
        return taken.astype(like.dtype)

    def _attend_listed(self, layer, query, last_key, reads):
        """Attention of one query a row, over the pages that are listed.

        The scores of all pages are computed first, and then the sum of the values. Every page is a product of the same
        shape, and the pages of a row are summed in their order: what a row computes does not depend on the other rows.
        """
        rows, heads, size = query.shape
        chunk = len(reads.page) // len(reads.columns)
        kv_heads = self.keys.shape[2]
        # One more row, for what no row reads.
        query = jnp.pad((query * size**-0.5).reshape(rows, kv_heads, -1, size), ((0, 1), (0, 0), (0, 0), (0, 0)))
        last_key = jnp.pad(last_key, (0, 1), constant_values=-1)
        reader = jnp.minimum(reads.rows, rows).T  # [SHARING, items]
        chunks = (reads.columns > 0).sum()

        def each_column(number, stored, carry, step):
            """`step` for every column of rows that reads the pages of a chunk, which are taken from memory once."""
            begin = number * chunk
            taken = self._take(stored, layer, jax.lax.dynamic_slice(reads.page, (begin,), (chunk,)), query)

            def one(column, carry):
                return step(column, begin, jax.lax.dynamic_slice(reader, (column, begin), (1, chunk))[0], taken, carry)

            return jax.lax.fori_loop(0, reads.columns[number], one, carry)

        def score(column, begin, row, keys, carry):
            highest, scores = carry
            found = jnp.einsum("chgd,chkd->chgk", query[row], keys, preferred_element_type=jnp.float32)
            first = jax.lax.dynamic_slice(reads.first, (begin,), (chunk,))
            seen = first[:, None] + jnp.arange(self.page) <= last_key[row][:, None]
            found = jnp.where(seen[:, None, None], found, -jnp.inf)
            at = column, begin, 0, 0, 0
            return highest.at[row].max(found.max(axis=-1)), jax.lax.dynamic_update_slice(scores, found[None], at)

        def add(column, begin, row, values, carry):
            total, out = carry
            at, sizes = (column, begin, 0, 0, 0), (1, chunk, *self.scores.shape[2:])
            weights = jnp.exp(jax.lax.dynamic_slice(scores, at, sizes)[0] - highest[row][..., None])
            found = jnp.einsum(
                "chgk,chkd->chgd", weights.astype(query.dtype), values, preferred_element_type=jnp.float32
            )
            return total.at[row].add(weights.sum(axis=-1)), out.at[row].add(found)

        shape = query.shape[:3]
        first = jnp.full(shape, jnp.finfo(jnp.float32).min), self.scores
        highest, scores = jax.lax.fori_loop(
            0, chunks, lambda number, carry: each_column(number, self.keys, carry, score), first
        )
        zeros = jnp.zeros(shape), jnp.zeros((*shape, size))
        total, out = jax.lax.fori_loop(
            0, chunks, lambda number, carry: each_column(number, self.values, carry, add), zeros
        )
        # A row that reads nothing has a total of 0, and no meaning.
        out = (out / jnp.where(total > 0, total, 1)[..., None])[:rows]
        return out.reshape(rows, heads, size).astype(query.dtype), scores


@functools.partial(jax.tree_util.register_dataclass, data_fields=["pages"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class KernelCache(Cache):
    """A cache in the layout of JAX's ragged paged attention for TPU, which reads each row's own pages and no more.

    Attributes:
      pages: [layers, pages, page, 2 * kv_heads, size], a head's key before its value.
    """

    AXES = (None, "batch", None, "kv_heads")

    pages: Array

    @property
    def stored(self):
        return [self.pages]

    @property
    def page(self):
        return self.pages.shape[2]

    def with_stored(self, stored):
        return KernelCache(*stored)

    def write(self, layer, key, value, page, offset):
        new = jnp.stack([key, value], axis=2).swapaxes(1, 3).swapaxes(2, 3)  # [rows, tokens, kv_heads, 2, size]
        new = new.reshape(*new.shape[:2], -1, new.shape[-1])
        return KernelCache(self.pages.at[layer, page, offset].set(new.astype(self.pages.dtype), mode="drop"))

    def attend(self, layer, query, last_key, pages, reads):
        del reads  # the kernel follows the table
        rows, tokens, heads, size = query.shape
        count = self.pages.shape[1]
        # Padding is a query like others. It sees what lies after the row's tokens, for which the table has to go on.
        table = jnp.pad(pages.table, ((0, 0), (0, -(-tokens // self.page)))) + layer * count
        seen = last_key[:, 0] + 1 if tokens == 1 else pages.starts + tokens
        # A factor has the kernel convert what is not of the queries' type, which it would not do by itself.
        whole = 1.0 if self.pages.dtype == jnp.int8 else None
        flops = 2 * 2 * rows * tokens * heads * pages.table.shape[1] * self.page * size
        with kernels.saying({"ragged_paged_attention_kernel": flops}):
            out = ragged_paged_attention(
                query.reshape(rows * tokens, heads, size),
                self.pages.reshape(-1, *self.pages.shape[2:]),  # a page of a layer has a number of its own
                seen,
                table,
                jnp.arange(rows + 1, dtype=jnp.int32) * tokens,
                jnp.array([rows], jnp.int32),
                sm_scale=size**-0.5,
                k_scale=whole,
                v_scale=whole,
                num_kv_pages_per_block=min(KERNEL_PAGES, table.shape[1]),
                num_queries_per_block=min(KERNEL_ROWS if tokens == 1 else KERNEL_QUERIES, rows * tokens),
            )
        return out.reshape(query.shape), self


def page_size(mesh: Mesh | None) -> int:
    """Tokens of a page on the devices of a mesh; None is JAX's default platform."""
    return PAGE.get(platform_of(mesh), DEFAULT_PAGE)


def most_listed(mesh: Mesh | None) -> int:
    """The most pages that `Reads` should have in a chunk, on the devices of a mesh."""
    return CHUNK.get(platform_of(mesh), DEFAULT_CHUNK)


def kernel_reads(kv_heads: int, dtype: DTypeLike) -> bool:
    """Whether JAX's kernel for TPU reads a cache with so many heads of keys on a device, and as many of values.

    It wants them to fill whole 32-bit words, of which there are 1, 2, 4, or a multiple of 8.
    """
    words, rest = divmod(2 * kv_heads * jnp.dtype(dtype).itemsize, 4)
    return not rest and (words in (1, 2, 4) or words % 8 == 0)


def has_kernel(mesh: Mesh | None, size: int) -> bool:
    """Whether JAX's kernel for TPU attends over a cache, on the devices of a mesh and with heads of this size."""
    return platform_of(mesh) == "tpu" and size % KERNEL_HEAD == 0


def empty_cache(
    layers: int,
    pages: int,
    page: int,
    heads: tuple[int, int],
    size: int,
    dtype: DTypeLike,
    items: int,
    mesh: Mesh | None,
) -> Cache:
    """An empty cache, in the layout of its platform.

    Args:
      pages: of all parts of the mesh.
      page: tokens of one; see `page_size`.
      heads: heads of queries and of keys.
      size: of a head.
      dtype: of what is stored; int8 takes numbers that are rounded already (`quantized_cache`).
      items: the most pages, of all parts, that `Reads` list; 0 where they are not used.
    """
    platform, (heads, kv_heads) = platform_of(mesh), heads
    if has_kernel(mesh, size):
        shape = layers, pages, page, 2 * kv_heads, size
        return KernelCache(constrain(jnp.zeros(shape, dtype), (*KernelCache.AXES, None), mesh))
    stored = jnp.uint16 if platform == "cpu" and dtype == jnp.bfloat16 else dtype
    empty = jnp.zeros((layers, pages, kv_heads, page, size), stored)
    # Not of size 0: XLA's compiler crashes on such an array that a mesh divides (JAX 0.11.2).
    scores = jnp.zeros((SHARING, items or parts(mesh), kv_heads, heads // kv_heads, page))
    arrays = (constrain(array, (*PlainCache.AXES, None, None), mesh) for array in (empty, jnp.copy(empty), scores))
    return PlainCache(*arrays, platform)


def _take_page(stored: Array, number: Int[Array, ""]) -> Array:
    return jax.lax.dynamic_slice_in_dim(stored, number, 1, 1)


def _put_page(stored: Array, page: Array, number: Int[Array, ""]) -> Array:
    """Writes a page, unless its number is past the last: then what is there is written again."""
    old = _take_page(stored, number)
    return jax.lax.dynamic_update_slice_in_dim(stored, jnp.where(number < stored.shape[1], page, old), number, 1)
