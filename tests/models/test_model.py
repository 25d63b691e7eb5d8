"""What the network promises its users: the cache, padding, packing, layer patterns, remat."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from pixel_reasoner_jax.config_values import REMAT
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.cache import Pages
from pixel_reasoner_jax.plan.flops import count_flops
from tests.models.helpers import IMAGE, VIDEO, make_row, our_batch, pages_of, random_oracle, small_config

CONFIG = dataclasses.replace(Config.preset("tiny"), vocab_size=600, image_token_id=IMAGE, video_token_id=VIDEO)


@pytest.fixture(scope="module")
def model():
    return Qwen2_5_VL.create(CONFIG, seed=1)


@pytest.fixture(scope="module")
def run(model):
    graph, _ = nnx.split(model)
    return jax.jit(lambda params, batch: nnx.merge(graph, params)(batch))


def test_cached_turns_equal_one_forward(model, run):
    rows = [make_row([9, (4, 6), 5, (8, 8), 11], 0), make_row([4, (2, 10), 20], 1), make_row([15], 2)]
    length = 64
    batch = our_batch(rows, length, 128, 2)
    expected = run(nnx.state(model), batch)
    graph, params = nnx.split(model)

    @jax.jit
    def extend(params, tokens, positions, index, embeddings, counts, cache, pages):
        model = nnx.merge(graph, params)
        hidden, cache = model.extend(model.embed(tokens, index, embeddings), positions, counts, cache, pages)
        return model.logits(hidden), cache

    embeddings = model.encode_vision(batch["vision"])
    pages, count = pages_of(np.zeros(len(rows)), length, 8)
    cache = model.init_cache(count, 8)
    lengths = np.array([len(row.tokens) for row in rows])
    done = np.zeros_like(lengths)
    random = np.random.default_rng(3)
    width = 16
    while (done < lengths).any():
        counts = np.minimum(random.integers(0, width + 1, len(rows)), lengths - done)  # some rows stand still
        take = np.minimum(done[:, None] + np.arange(width), length - 1)  # what is past the count is anything
        tokens, index = (np.take_along_axis(batch[name], take, 1) for name in ("tokens", "vision_index"))
        positions = np.take_along_axis(batch["positions"], np.broadcast_to(take, (3, *take.shape)), 2)
        pages = pages._replace(starts=done.astype(np.int32))
        logits, cache = extend(params, tokens, positions, index, embeddings, counts, cache, pages)
        for i, count in enumerate(counts):
            np.testing.assert_allclose(logits[i, :count], expected[i, done[i] : done[i] + count], atol=1e-4, rtol=0)
        done += counts


def test_extend_past_the_end_leaves_the_rest_of_the_cache(model):
    graph, params = nnx.split(model)

    @jax.jit
    def extend(params, tokens, counts):
        model = nnx.merge(graph, params)
        positions = jnp.zeros((3, *tokens.shape), jnp.int32)
        pages = Pages(jnp.zeros(2, jnp.int32), jnp.array([[2], [0]]))
        return model.extend(model.embed(tokens), positions, counts, model.init_cache(3, 4), pages)[1]

    keys = np.asarray(extend(params, np.ones((2, 6), np.int32), np.array([6, 3])).keys)
    assert keys[:, 2].all() and keys[:, 0, :, :3].all() and not keys[:, 0, :, 3:].any() and not keys[:, 1].any()


def test_packed_segments_equal_separate_rows(model, run):
    parts = [make_row([12], 0), make_row([7], 1)]
    separate = run(nnx.state(model), our_batch(parts, 32))
    packed = our_batch([parts[0]], 32)
    packed["tokens"][0, 12:19] = parts[1].tokens
    packed["segment_ids"][0, 12:19] = 2
    packed["positions"][:, 0, 12:19] = np.arange(7)
    logits = run(nnx.state(model), packed)
    np.testing.assert_allclose(logits[0, :12], separate[0, :12], atol=1e-4)
    np.testing.assert_allclose(logits[0, 12:19], separate[1, :7], atol=1e-4)


def test_padding_has_no_effect(model, run):
    rows = [make_row([5, (4, 6), 6], 0)]
    batch = our_batch(rows, 32, 64, 1)
    expected = run(nnx.state(model), batch)
    padding, vision = batch["segment_ids"] == 0, batch["vision"]
    real = vision["patch_segments"][..., None] > 0
    noisy = batch | {
        "tokens": np.where(padding, 77, batch["tokens"]),
        "positions": np.where(padding, 999, batch["positions"]),
        "vision": vision | {"patches": np.where(real, vision["patches"], np.uint8(250))},
    }
    n = len(rows[0].tokens)
    np.testing.assert_array_equal(run(nnx.state(model), noisy)[:, :n], expected[:, :n])


@pytest.mark.parametrize("full", [(), (0, 1, 2, 3), (1,), (0, 3), (1, 3)])
def test_any_pattern_of_full_attention(full, tmp_path):
    vision = dataclasses.replace(small_config().vision, depth=4, fullatt_block_indexes=full)
    oracle = random_oracle(small_config(vision=vision, num_hidden_layers=1))
    oracle.save_pretrained(tmp_path)
    row = make_row([(12, 10), (4, 20)], 0)
    batch = our_batch([row], 128, 256, 2)
    graph, params = nnx.split(Qwen2_5_VL.from_pretrained(tmp_path))
    embeddings = jax.jit(lambda params, vision: nnx.merge(graph, params).encode_vision(vision))(params, batch["vision"])
    with torch.no_grad():
        out = oracle.model.visual(
            torch.tensor(np.concatenate([item.patches for item in row.media])),
            torch.tensor([item.grid for item in row.media]),
        )
    index = batch["vision_index"][batch["vision_index"] >= 0]
    np.testing.assert_allclose(embeddings[index], out.pooler_output.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("policies", [("none", "groups"), pytest.param(tuple(REMAT), marks=pytest.mark.slow)])
def test_remat_changes_no_gradient(policies):
    tower = dataclasses.replace(CONFIG.vision, depth=4, fullatt_block_indexes=(1, 3))
    model = Qwen2_5_VL.create(dataclasses.replace(CONFIG, vision=tower), seed=1)
    batch = our_batch([make_row([5, (4, 6), 6], 0)], 32, 64, 1)
    long = our_batch([make_row([5, (32, 32), 400], 0)], 704, 1024, 1)  # whose attention goes in parts and chunks

    def gradient(policy):
        other = nnx.clone(model)
        other.remat = policy
        graph, params = nnx.split(other)
        return jax.jit(jax.grad(lambda params, batch: (nnx.merge(graph, params)(batch) ** 2).mean())), params

    expected = None
    products = {}
    for policy in REMAT:
        run, params = gradient(policy)
        if policy in policies:
            got = jax.tree.leaves(run(params, batch))
            expected = expected or got
            for a, b in zip(expected, got, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-6, err_msg=policy)
        products[policy] = count_flops(run.trace(params, long).jaxpr).products
    assert products["none"] == products["dots"] < products["vision"] < products["full"] < products["groups"]


def test_unknown_remat_policy_lists_the_known(model):
    other = nnx.clone(model)
    other.remat = "all"
    with pytest.raises(ValueError, match="unknown remat policy 'all'; there are none, vision, dots, full, groups"):
        other(our_batch([make_row([5, (4, 6), 6], 0)], 32, 64, 1))


def test_types():
    model = Qwen2_5_VL.create(CONFIG, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    batch = our_batch([make_row([5, (4, 6), 6], 0)], 32, 64, 1)
    assert model.output_embedding().dtype == jnp.float32
    assert jax.eval_shape(model.encode_vision, batch["vision"]).dtype == jnp.bfloat16
    assert jax.eval_shape(model, batch).dtype == jnp.float32
    assert jax.eval_shape(lambda: model.init_cache(1, 8)).keys.dtype == jnp.uint16  # bfloat16, on a CPU
    assert jax.eval_shape(lambda: model.init_cache(1, 8, dtype="float32")).keys.dtype == jnp.float32
