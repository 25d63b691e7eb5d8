"""A cache of int8: what rounding costs, that scales do not cut off, and that nothing else differs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel

from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models import cache as module
from pixel_reasoner_jax.models.cache import KernelCache, Pages, empty_cache
from pixel_reasoner_jax.models.quantized_cache import LARGEST, MARGIN, QuantizedCache, Ranges, largest
from tests.models.test_cache import GROUP, HEADS, KV_HEADS, LAYERS, LENGTHS, PAGE, TABLE, definition, listed, of_row

ROWS, TOKENS = len(LENGTHS), max(LENGTHS)
PAGES = TABLE.max() + 3


def keys_and_values(size):
    """[2, layers, rows, kv_heads, tokens, size]; some keys' channels are a hundred times as large, in all tokens."""
    rng = np.random.default_rng(0)
    both = rng.standard_normal((2, LAYERS, ROWS, KV_HEADS, TOKENS, size), np.float32)
    means = 10 ** rng.uniform(-1, 2, (LAYERS, 1, KV_HEADS, 1, size // 2))
    both[0] += np.concatenate([means, -means], -1)  # a rotation turns the two halves into each other
    return both


def ranges_of(both) -> Ranges:
    by_layer = [largest(*(x[layer].reshape(ROWS, KV_HEADS, TOKENS, -1) for x in both)) for layer in range(LAYERS)]
    return Ranges(*map(jnp.stack, zip(*by_layer, strict=True)))


def filled(both, ranges, parts=1) -> QuantizedCache:
    cache = empty_cache(LAYERS, PAGES, PAGE, (HEADS, KV_HEADS), both.shape[-1], jnp.dtype(jnp.int8), 16, None)
    cache = QuantizedCache.of(cache, ranges, parts)
    index = np.broadcast_to(np.arange(TOKENS), (ROWS, TOKENS))
    page = np.where(index < np.array(LENGTHS)[:, None], np.take_along_axis(TABLE, index // PAGE, 1), PAGES)

    @jax.jit
    def fill(cache):
        for layer in range(LAYERS):
            cache = cache.write(layer, *jnp.asarray(both[:, layer]), page, index % PAGE)
        return cache

    return fill(cache)


def exact(cache: QuantizedCache, both, ranges) -> np.ndarray:
    """What a cache stands for, like `both`: no entry is further away than half a step of its channel."""
    index = np.arange(TOKENS)
    page, offset = TABLE[:, index // PAGE], index % PAGE  # of each row and token
    if isinstance(cache.cache, KernelCache):
        found = np.asarray(cache.stored[0])[:, page, offset]  # [layers, rows, tokens, 2 * kv_heads, size]
        found = found.reshape(*found.shape[:3], KV_HEADS, 2, -1).transpose(4, 0, 1, 3, 2, 5)
    else:
        found = np.stack([np.asarray(x)[:, page, :, offset].transpose(2, 0, 3, 1, 4) for x in cache.stored])
    scales = np.stack(ranges)[:, :, None, :, None].astype(np.float64) * MARGIN / LARGEST
    found = found * scales
    is_there = index < np.array(LENGTHS)[:, None]
    assert (np.abs(found - both) <= scales / 2 * 1.001)[:, :, is_there[:, None].repeat(KV_HEADS, 1)].all()
    return found


def query_of(both, tokens=1):
    """Queries whose scores are of usual size."""
    size = both.shape[-1]
    spread = np.abs(both[0]).max((0, 1, 3))  # [kv_heads, size]
    random = np.random.default_rng(2).standard_normal((ROWS, tokens, KV_HEADS, GROUP, size))
    return (random / spread[:, None]).reshape(ROWS, tokens, HEADS, size).astype(np.float32)


@pytest.mark.parametrize("is_listed", [True, False])
def test_attention_is_that_over_the_rounded_keys_and_values(is_listed):
    both = keys_and_values(16)
    ranges = ranges_of(both)
    cache = filled(both, ranges)
    stands_for = exact(cache, both, ranges)
    assert all(x.dtype == jnp.int8 for x in cache.stored)
    query, last = query_of(both), np.array(LENGTHS)[:, None] - 1
    reads = listed([entry for row in range(4) for entry in of_row(row)], 4, 4, 4) if is_listed else None
    pages = Pages(np.zeros(ROWS, np.int32), TABLE)
    for layer in range(LAYERS):
        found = jax.jit(lambda cache, *rest: cache.attend(*rest))(cache, layer, query, last, pages, reads)[0]
        np.testing.assert_allclose(found, definition(query, stands_for, layer, last + 1), atol=1e-4)
        np.testing.assert_allclose(found, definition(query, both, layer, last + 1), atol=0.05)


@pytest.mark.parametrize("tokens", [1, 6])
def test_the_kernel_reads_what_is_stored(monkeypatch, tokens):
    def reference(*args, num_kv_pages_per_block, num_queries_per_block, **options):
        return kernel.ref_ragged_paged_attention(*args, **options)

    monkeypatch.setattr(module, "platform_of", lambda mesh: "tpu")
    monkeypatch.setattr(module, "ragged_paged_attention", reference)
    both = keys_and_values(128)
    ranges = ranges_of(both)
    cache = filled(both, ranges)
    assert isinstance(cache.cache, KernelCache) and cache.stored[0].dtype == jnp.int8
    query = query_of(both, tokens)
    starts = np.maximum(np.array(LENGTHS) - tokens, 0)
    counts = np.array(LENGTHS) - starts
    last = np.minimum(starts[:, None] + np.arange(tokens), starts[:, None] + counts[:, None] - 1).astype(np.int32)
    found = cache.attend(1, query, jnp.asarray(last), Pages(jnp.asarray(starts, jnp.int32), TABLE), None)[0]
    expected = definition(query, exact(cache, both, ranges), 1, last + 1)
    for row, count in enumerate(counts):
        np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=1e-4)


def test_what_lies_beyond_the_margin_is_cut_off():
    both = keys_and_values(16)
    ranges = ranges_of(both)
    both[:, :, 0, :, 0] *= 5
    stored = np.asarray(filled(both, ranges).stored[1])  # values, [layers, pages, kv_heads, page, size]
    first = stored[:, TABLE[0, 0], :, 0]
    assert np.abs(first).max() == LARGEST
    given = both[1, :, 0, :, 0]
    np.testing.assert_array_equal(np.sign(first)[first != 0], np.sign(given)[first != 0])


def test_ranges_hold_at_every_position():
    """Rotated by other positions, keys stay within those that a model gives for a text."""
    model = Qwen2_5_VL.create(Config.preset("tiny"), 3)
    graph, params = nnx.split(model)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, 24)
    ranges = jax.jit(lambda params: nnx.merge(graph, params).ranges(tokens))(params)
    key, value = (np.asarray(x) for x in ranges)
    half = key.shape[-1] // 2
    np.testing.assert_array_equal(key[..., :half], key[..., half:])

    @jax.jit
    def stored(params, positions):
        model = nnx.merge(graph, params)
        pages = Pages(jnp.zeros(1, jnp.int32), jnp.arange(3)[None])
        counts = jnp.array([len(tokens)])
        return model.extend(model.embed(tokens[None]), positions, counts, model.init_cache(3, 8), pages)[1].stored

    far = jnp.broadcast_to(jnp.arange(24) + 12_345, (3, 1, 24))
    keys, values = (np.abs(np.asarray(x)).max((1, 3)) for x in stored(params, far))
    assert (keys <= key * 1.001).all() and (keys > key / 4).all()
    np.testing.assert_allclose(values, value, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16", "float32"])
def test_what_the_kernel_reads_is_what_is_said_of_it(dtype):
    for heads in range(1, 40):
        try:
            kernel.get_min_heads_per_blk(4 * heads, 2 * heads, jnp.bfloat16, jnp.dtype(dtype))
        except ValueError:
            assert not module.kernel_reads(heads, dtype)
        else:
            assert module.kernel_reads(heads, dtype)
