"""Top-k and top-p against their definition in float64, on rows that make them hard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_reasoner_jax.parallel.mesh import make_mesh
from pixel_reasoner_jax.parallel.sharding import sharding
from pixel_reasoner_jax.plan.chips import topology
from pixel_reasoner_jax.plan.hlo import Program as Text
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, SlotSampling, sampling_logits
from pixel_reasoner_jax.rollout.truncation import least_kept

ROWS = 64
EDGE = 3e-7  # how near to top_p a sum of float32 weights may come out on the other side of it

least = jax.jit(least_kept)


def oracle(row: np.ndarray, top_k: int, top_p: float) -> tuple[float, bool]:
    """The least logit that is kept, and whether float32 can tell."""
    ordered = np.sort(row.astype(np.float64))[::-1][: top_k or None]
    weights = np.exp(ordered - ordered[0])
    likelier = (np.cumsum(weights) - weights) / weights.sum()
    kept = (likelier < top_p) | (top_p == 1)
    return ordered[kept].min(), top_p == 1 or np.all(np.abs(likelier[1:] - top_p) > EDGE)


def hard_rows(vocab: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, top_k and top_p of rows: flat, peaked, of a few values, forbidden, all alike, of many magnitudes."""
    random = np.random.default_rng(vocab)
    logits = random.normal(size=(ROWS, vocab)) * 10 ** random.uniform(-3, 2, (ROWS, 1))
    for row in logits:
        kind = random.integers(8)
        if kind == 0:
            row[:] = np.round(row)
        elif kind == 1:
            row[:] = row[0]
        elif kind == 2:
            row[random.random(vocab) < 0.7] = -np.inf
            row[random.integers(vocab)] = 0
        elif kind == 3:
            row *= random.random(vocab) < 0.1  # both zeros among them
        elif kind == 4:
            row *= 10.0 ** random.uniform(-40, 30, vocab)
        elif kind == 5:
            row -= 20 * (random.random(vocab) < 0.99)
        elif kind == 6:
            row[:] = np.asarray(jnp.asarray(row, jnp.bfloat16), np.float32)
    top_k = random.choice([0, 0, 1, 2, 5, 50, vocab, 10**6], ROWS).astype(np.int32)
    top_p = random.choice([1, 0.9, 0.5, 0.3, 1e-3, 1e-30, 0.999, 0.999999], ROWS).astype(np.float32)
    return logits.astype(np.float32), top_k, top_p


@pytest.mark.parametrize("vocab", [1, 97, 1001, 5000])
def test_keeps_what_the_definition_keeps(vocab):
    logits, top_k, top_p = hard_rows(vocab)
    told = 0
    for row, k, p, got in zip(logits, top_k, top_p, np.asarray(least(logits, top_k, top_p)), strict=True):
        want, certain = oracle(row, int(k), float(p))
        told += certain
        if certain:
            row = row[row > -np.inf]
            np.testing.assert_array_equal(row >= got, row >= np.float32(want), f"top_k {k}, top_p {p}")
    assert told >= 0.9 * ROWS


def test_a_row_is_kept_alike_in_any_company():
    logits, top_k, top_p = hard_rows(1001)
    together = np.asarray(least(logits, top_k, top_p))
    others = np.flip(logits, axis=1) * 1.7
    for row in range(0, ROWS, 8):
        mine = np.arange(ROWS) == row
        for company in (np.full_like(logits, -1.0), others):
            rows = np.where(mine[:, None], logits, company)
            alone = least(rows, np.where(mine, top_k, 3), np.where(mine, top_p, np.float32(0.7)))
            assert alone[row] == together[row]


def test_rows_with_nothing_to_choose_from_end_and_leave_the_others_alone():
    logits, top_k, top_p = hard_rows(1001)
    together = np.asarray(least(logits, top_k, top_p))
    logits[:4] = np.array([np.nan, np.inf, -np.inf, 0])[:, None]
    logits[3, 5] = np.nan
    np.testing.assert_array_equal(np.asarray(least(logits, top_k, top_p))[4:], together[4:])


def test_settings_of_a_batch_are_each_row_s_own():
    logits = np.tile(np.log(np.array([1, 2, 4, 8, 16], np.float32)), (6, 1))
    settings = [
        SamplingSettings(),
        SamplingSettings(top_k=2),
        SamplingSettings(top_p=0.8),  # 16 + 8 of 31 are not enough
        SamplingSettings(top_p=0.6, top_k=3),  # 16 of 28 are not
        SamplingSettings(0.0, top_p=0.5),  # 16 of 31 are
        SamplingSettings(0.5, top_p=0.9),  # 256 + 64 of 341 are
    ]
    sampling = SlotSampling.of(settings, [1] * len(settings))
    kept = np.isfinite(jax.jit(sampling_logits, static_argnums=3)(logits, sampling, None, True)).sum(axis=1)
    np.testing.assert_array_equal(kept, [5, 2, 3, 2, 1, 2])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_no_platform_sorts_the_vocabulary(platform):
    row, whole = jax.ShapeDtypeStruct((4,), jnp.float32), jax.ShapeDtypeStruct((4, 151_936), jnp.float32)
    traced = least.trace(whole, jax.ShapeDtypeStruct((4,), jnp.int32), row)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.reduce" in text
    assert "sort" not in text and "top_k" not in text.lower() and "gather" not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
def test_devices_that_share_the_vocabulary_exchange_sums_alone():
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install '.[tpu]'")
    jax.devices()  # counted before others are asked for
    mesh = make_mesh({"tensor": 4}, topology("v5e:2x2").devices)
    shapes = [((8, 151_936), jnp.float32, ("batch", "vocab")), ((8,), jnp.int32, ()), ((8,), jnp.float32, ())]
    given = [jax.ShapeDtypeStruct(shape, kind, sharding=sharding(axes, shape, mesh)) for shape, kind, axes in shapes]
    compiled = jax.jit(least_kept).lower(*given).compile()
    exchanged = Text(compiled.as_text(), 4).collectives(loops=(10, 10))
    assert exchanged and max(one.result_bytes for one in exchanged) <= 1024
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * 8 * 151_936 * 4 / 4
