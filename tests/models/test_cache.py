"""The paged cache: against the definition of attention, and what its readers and writers promise."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from pixel_reasoner_jax.models import cache as module
from pixel_reasoner_jax.models.cache import SHARING, Cache, KernelCache, Pages, Reads, empty_cache

LAYERS, PAGE, KV_HEADS, GROUP, SIZE = 2, 8, 2, 3, 16
HEADS = KV_HEADS * GROUP


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def filled(
    lengths, table, dtype=jnp.float32, *, items=0, size=SIZE, heads=(HEADS, KV_HEADS)
) -> tuple[Cache, np.ndarray]:
    """A cache with rows of these lengths, and their keys and values, [2, layers, rows, kv_heads, tokens, size]."""
    rows, tokens = len(lengths), max(lengths)
    both = random(2, LAYERS, rows, heads[1], tokens, size)
    cache = empty_cache(LAYERS, table.max() + 3, PAGE, heads, size, jnp.dtype(dtype), items, None)
    index = np.broadcast_to(np.arange(tokens), (rows, tokens))
    page = np.where(index < np.array(lengths)[:, None], np.take_along_axis(table, index // PAGE, 1), table.max() + 3)

    @jax.jit
    def fill(cache):
        for layer in range(LAYERS):
            cache = cache.write(layer, *jnp.asarray(both[:, layer]), page, index % PAGE)
        return cache

    return fill(cache), both


def definition(query, both, layer, ends):
    """Attention of queries [rows, tokens, heads, size] over the first `ends` [rows, tokens] keys, in float64."""
    out = np.zeros(query.shape)
    for row, token in np.ndindex(*query.shape[:2]):
        keys, values = (np.repeat(x[layer, row, :, : ends[row, token]].astype(np.float64), GROUP, 0) for x in both)
        scores = np.einsum("hd,hkd->hk", query[row, token], keys) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[row, token] = np.einsum("hk,hkd->hd", weights / weights.sum(-1, keepdims=True), values)
    return out


def listed(entries, rows, chunk, chunks) -> Reads:
    """Reads of (page, index of its first token, rows that read it)."""
    items = chunk * chunks
    page, first = np.zeros(items, np.int32), np.zeros(items, np.int32)
    readers = np.full((items, SHARING), rows, np.int32)
    for number, (page[number], first[number], who) in enumerate(entries):
        readers[number, : len(who)] = who
    columns = (readers < rows).sum(1).reshape(chunks, chunk).max(1).astype(np.int32)
    return Reads(page, first, readers, columns)


LENGTHS = [19, 1, 40, 8]
TABLE = np.random.default_rng(1).permutation(20).reshape(4, 5).astype(np.int32)


def of_row(row, length=None):
    return [(TABLE[row, i], i * PAGE, [row]) for i in range(-(-(length or LENGTHS[row]) // PAGE))]


@functools.partial(jax.jit, static_argnums=0)
def attend(layer, cache, query, last, reads):
    pages = Pages(np.zeros(len(query), np.int32), TABLE)
    return cache.attend(layer, query, last, pages, reads)[0]


@pytest.mark.parametrize("dtype, close", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("is_listed", [True, False])
def test_attention_over_pages_is_its_definition(dtype, close, is_listed):
    cache, both = filled(LENGTHS, TABLE, dtype, items=16)
    query, last = random(4, 1, HEADS, SIZE, seed=2), np.array(LENGTHS)[:, None] - 1
    reads = listed([entry for row in range(4) for entry in of_row(row)], 4, 4, 4) if is_listed else None
    for layer in range(LAYERS):
        found = attend(layer, cache, query, last, reads)
        np.testing.assert_allclose(found, definition(query, both, layer, last + 1), atol=close)


def test_what_a_row_reads_does_not_depend_on_the_others():
    """To the bit: other rows, other places in the list, a page that is shared or not."""
    cache, _ = filled(LENGTHS, TABLE, items=16)
    query, last = random(4, 1, HEADS, SIZE, seed=2), np.array(LENGTHS)[:, None] - 1
    alone = attend(1, cache, query, last, listed(of_row(2), 4, 4, 4))[2]
    late = attend(1, cache, query, last, listed([*of_row(0), *of_row(3), *of_row(1), *of_row(2)], 4, 4, 4))[2]
    np.testing.assert_array_equal(alone, late)
    shared = [(page, first, [0, 3, 2]) for page, first, _ in of_row(2)[:4]] + of_row(2)[4:]
    np.testing.assert_array_equal(alone, attend(1, cache, query, last, listed(shared, 4, 4, 4))[2])


def test_more_than_the_tokens_of_a_row_may_be_listed():
    """A chunk of decoding lists the pages of its last token from the beginning."""
    cache, both = filled(LENGTHS, TABLE, items=16)
    query, last = random(4, 1, HEADS, SIZE, seed=2), np.array([3, 0, 20, 7])[:, None]
    reads = listed([entry for row in range(4) for entry in of_row(row)], 4, 4, 4)
    found = attend(0, cache, query, last, reads)
    np.testing.assert_allclose(found, definition(query, both, 0, last + 1), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pages_are_copied_and_brought_back_to_the_bit(dtype):
    cache, _ = filled(LENGTHS, TABLE, dtype)
    before = [np.asarray(x) for x in cache.stored]
    count = before[0].shape[1]
    copied = jax.jit(Cache.copy)(cache, np.array([3, 5]), np.array([20, count]))
    for old, new in zip(before, copied.stored, strict=True):
        np.testing.assert_array_equal(new[:, 20], old[:, 3])
        np.testing.assert_array_equal(np.delete(new, 20, 1), np.delete(old, 20, 1))
    numbers = np.array([7, 2, 11])
    into = [jnp.zeros(shape.shape, shape.dtype) for shape in cache.saved_shapes(3)]
    saved = jax.jit(Cache.save)(cache, numbers, into)
    moved = np.array([1, count, 4])  # the second is left out
    loaded = jax.jit(Cache.load)(cache, moved, saved)
    for old, new in zip(before, loaded.stored, strict=True):
        np.testing.assert_array_equal(new[:, [1, 4]], old[:, [7, 11]])
        np.testing.assert_array_equal(np.delete(new, [1, 4], 1), np.delete(old, [1, 4], 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_step_copies_the_cache(dtype):
    rows, pages, layers = 4, 256, 4
    cache = jax.eval_shape(lambda: empty_cache(layers, pages, 64, (HEADS, KV_HEADS), 64, jnp.dtype(dtype), 256, None))
    new, query = (jax.ShapeDtypeStruct((rows, *shape), jnp.float32) for shape in ((KV_HEADS, 1, 64), (1, HEADS, 64)))
    pages = Pages(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((rows,), (rows, 64))))
    reads = Reads(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((256,), (256,), (256, SHARING), (16,))))

    def step(cache, new, query, pages, reads):
        def layer(carry, number):
            cache, query = carry
            at = pages.starts[:, None]
            page = jnp.take_along_axis(pages.table, at // 64, axis=1)
            out, cache = cache.write(number, new, new, page, at % 64).attend(number, query, at, pages, reads)
            return (cache, out), None

        return jax.lax.scan(layer, (cache, query), jnp.arange(layers))[0]

    for listed_reads in (None, reads):
        compiled = jax.jit(step, donate_argnums=0).lower(cache, new, query, pages, listed_reads).compile()
        stored = sum(x.size * x.dtype.itemsize for x in cache.stored)
        assert compiled.memory_analysis().temp_size_in_bytes < stored / 10


@pytest.mark.parametrize("tokens", [1, 6])
def test_the_kernel_is_asked_for_the_same(monkeypatch, tokens):
    """The reference beside JAX's kernel in its place: rows of several lengths, of which some tokens are padding."""

    def reference(*args, num_kv_pages_per_block, num_queries_per_block, **options):
        return kernel.ref_ragged_paged_attention(*args, **options)

    monkeypatch.setattr(module, "platform_of", lambda mesh: "tpu")
    monkeypatch.setattr(module, "ragged_paged_attention", reference)
    cache, both = filled(LENGTHS, TABLE, size=128)
    assert isinstance(cache, KernelCache)
    query = random(4, tokens, HEADS, 128, seed=2)
    starts = np.array(LENGTHS) - tokens
    counts = np.array([tokens, 1, tokens - 1, tokens]) if tokens > 1 else np.ones(4, int)
    starts = np.maximum(starts, 0)
    last = np.minimum(starts[:, None] + np.arange(tokens), starts[:, None] + counts[:, None] - 1).astype(np.int32)
    found = cache.attend(1, query, jnp.asarray(last), Pages(jnp.asarray(starts, jnp.int32), TABLE), None)[0]
    expected = definition(query, both, 1, last + 1)
    for row, count in enumerate(counts):
        np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=1e-5)


@pytest.mark.parametrize("size", [64, 128])
def test_a_step_lowers_for_tpu(monkeypatch, size):
    """With the kernel, and with slices where heads are too small for it."""
    monkeypatch.setattr(module, "platform_of", lambda mesh: "tpu")
    cache = jax.eval_shape(lambda: empty_cache(2, 64, 128, (8, 4), size, jnp.dtype("bfloat16"), 64, None))
    query = jax.ShapeDtypeStruct((4, 1, 8, size), jnp.bfloat16)
    pages = Pages(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((4,), (4, 16))))
    reads = Reads(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((64,), (64,), (64, SHARING), (8,))))
    last = jax.ShapeDtypeStruct((4, 1), jnp.int32)
    run = jax.jit(lambda cache, *rest: cache.attend(0, *rest))
    device = AbstractDevice("TPU v5", 1, "tpu")
    chip = AbstractMesh((1,), ("chip",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(chip):
        text = run.trace(cache, query, last, pages, reads).lower(lowering_platforms=("tpu",)).as_text()
    assert ("tpu_custom_call" in text) == (size == 128)
    gathers = [line for line in text.splitlines() if "stablehlo.gather" in line]
    assert not any("64x4x128x64xbf16" in line for line in gathers)  # a gather of pages would be a copy of all
