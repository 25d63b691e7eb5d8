"""The whole network against transformers' Qwen2_5_VLForConditionalGeneration in float32."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.vision_utils import get_vision_window_index

from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.models.weights import released_name, tensor_targets
from tests.models.helpers import (
    Row,
    make_row,
    oracle_inputs,
    our_batch,
    pages_of,
    positions_of,
    random_oracle,
    small_config,
)

# One shape for all cases, so that everything compiles once.
LENGTH, ROW_PATCHES, VISION_ROWS = 224, 1024, 2

CASES = {
    "grid that is no multiple of the window": [[5, (10, 12), 7], [(6, 18), 3]],
    "1x2 tokens": [[3, (2, 4), 5], [4, (4, 2)]],
    "very long grids": [[(2, 120), 9], [2, (120, 2), 4]],
    "several images of different sizes": [[6, (4, 6), (12, 10), 5, (2, 2), 8], [(8, 8), (16, 8), 3]],
    "videos with odd temporal grids": [[4, (3, 6, 4), 6], [(5, 4, 10), 2, (1, 8, 6), 5]],
    "image, video and text between": [[3, (6, 4), 9, (3, 4, 4), 2, (10, 8), 7], [1, (2, 6, 6), 4, (4, 4), 3]],
    "rows of very different lengths, one text only": [[(16, 16), 90, (8, 10), 20], [11]],
}


def build(directory, tied):
    """transformers' model and ours, read from what transformers saved."""
    oracle = random_oracle(small_config(tie_word_embeddings=tied))
    oracle.save_pretrained(directory)
    return oracle, Qwen2_5_VL.from_pretrained(directory)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return build(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="module")
def tied_models(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="module")
def forward(models):
    """Logits, merged vision embeddings and the tower's last hidden states of a batch."""
    graph, params = nnx.split(models[1])

    @jax.jit
    def run(params, batch):
        model = nnx.merge(graph, params)
        vision = batch["vision"]
        if vision is None:
            return model(batch), None, None
        names = ("patches", "scaling", "patch_positions", "patch_segments")
        states = model.vision.hidden_states(*(vision[name] for name in names))
        return model(batch), model.encode_vision(vision), states

    return lambda batch: jax.device_get(run(params, batch))


def rows_of(case):
    return [make_row(items, seed) for seed, items in enumerate(case)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_logits_and_tower(models, forward, case):
    oracle, _ = models
    rows = rows_of(case)
    batch = our_batch(rows, LENGTH, ROW_PATCHES, VISION_ROWS)
    logits, embeddings, states = forward(batch)
    with torch.no_grad():
        expected = oracle(**oracle_inputs(rows)).logits.numpy()
    for i, row in enumerate(rows):
        np.testing.assert_allclose(logits[i, : len(row.tokens)], expected[i, : len(row.tokens)], atol=1e-4, rtol=0)

    states = states.reshape(-1, 4, states.shape[-1])
    for i, row in enumerate(rows):
        index = batch["vision_index"][i][batch["vision_index"][i] >= 0]
        for item in row.media:
            mine, index = index[: item.tokens], index[item.tokens :]
            grid = torch.tensor([item.grid])
            with torch.no_grad():
                out = oracle.model.visual(torch.tensor(item.patches), grid)
            order, _ = get_vision_window_index(grid, 2, 112, 14)
            unordered = np.empty_like(states[mine])
            unordered[np.asarray(order)] = out.last_hidden_state.numpy().reshape(-1, 4, states.shape[-1])
            np.testing.assert_allclose(states[mine], unordered, atol=1e-4, rtol=0)
            np.testing.assert_allclose(embeddings[mine], out.pooler_output.numpy(), atol=1e-4, rtol=0)


def test_text_only(models, forward):
    rows = [make_row([40], 0), make_row([7], 1)]
    logits, _, _ = forward(our_batch(rows, 64))
    with torch.no_grad():
        expected = models[0](**oracle_inputs(rows)).logits.numpy()
    for i, row in enumerate(rows):
        np.testing.assert_allclose(logits[i, : len(row.tokens)], expected[i, : len(row.tokens)], atol=1e-4, rtol=0)


@pytest.mark.parametrize("fixture, remat", [("models", "none"), ("tied_models", "full")])
def test_loss_and_gradients(fixture, remat, request):
    oracle, model = request.getfixturevalue(fixture)
    rows = rows_of([[6, (4, 6), (12, 10), 5], [(3, 4, 6), 12]])
    batch = our_batch(rows, 96, 256, 2)
    inputs = oracle_inputs(rows)

    oracle.zero_grad()
    logits = oracle(**inputs).logits[:, :-1]
    targets = inputs["input_ids"][:, 1:]
    mask = inputs["attention_mask"][:, 1:].bool()
    expected = torch.nn.functional.cross_entropy(logits[mask], targets[mask])
    expected.backward()

    model.remat = remat
    graph, params = nnx.split(model)

    def loss(params):
        logits = nnx.merge(graph, params)(batch)[:, :-1]
        logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][:, 1:, None], axis=-1)[..., 0]
        mask = batch["segment_ids"][:, 1:] > 0
        return -(logprobs * mask).sum() / mask.sum()

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    gradients = {path: np.asarray(variable.get_value()) for path, variable in nnx.to_flat_state(gradients)}
    table = tensor_targets(model.config)
    errors = {}
    for name, parameter in oracle.named_parameters():
        place = table.pop(released_name(name))
        mine = gradients[place.path] if place.layer is None else gradients[place.path][place.layer]
        theirs = parameter.grad.numpy()
        errors[name] = np.linalg.norm(place.to_released(mine) - theirs) / np.linalg.norm(theirs)
    assert not table
    assert max(errors.values()) < 1e-3, max(errors.items(), key=lambda item: item[1])


def test_64_greedy_tokens_through_the_cache(models):
    oracle, model = models
    rows = rows_of([[6, (4, 6), 9, (3, 4, 4), 5], [(10, 12), 3]])
    lengths = np.array([len(row.tokens) for row in rows])
    steps = 64
    graph, params = nnx.split(model)

    @jax.jit
    def generate(params, batch, following):
        model = nnx.merge(graph, params)
        x = model.embed(batch["tokens"], batch["vision_index"], model.encode_vision(batch["vision"]))
        pages, count = pages_of(np.zeros(len(rows)), 64 + steps, 16)
        hidden, cache = model.extend(x, batch["positions"], lengths, model.init_cache(count, 16), pages)
        last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)

        def step(carry, offset):
            last, cache = carry
            tokens = jnp.argmax(model.logits(last), axis=-1)
            positions = jnp.broadcast_to((following + offset)[None, :, None], (3, len(rows), 1))
            held = pages._replace(starts=lengths + offset)
            last, cache = model.extend(model.embed(tokens), positions, jnp.ones(len(rows), jnp.int32), cache, held)
            return (last, cache), tokens[:, 0]

        return jax.lax.scan(step, (last, cache), jnp.arange(steps))[1].T

    tokens = {}
    for rule in ("released", "transformers"):
        following = np.array([positions_of(row, rule)[1] for row in rows], np.int32)
        tokens[rule] = np.asarray(generate(params, our_batch(rows, 64, 256, 2, rule), following))
    for i, row in enumerate(rows):
        with torch.no_grad():
            inputs = oracle_inputs([row], positions=False)
            out = oracle.generate(**inputs, max_new_tokens=steps, do_sample=False, pad_token_id=0)
            np.testing.assert_array_equal(tokens["transformers"][i], out[0, lengths[i] :].numpy())
            # By the released rule, the whole sequence at once: its video is longer in time than its sides.
            written = tokens["released"][i]
            logits = oracle(**oracle_inputs([Row(np.concatenate([row.tokens, written]), row.media)])).logits[0]
            np.testing.assert_array_equal(written, logits[lengths[i] - 1 : -1].argmax(-1).numpy())
    assert positions_of(rows[0], "released")[1] == positions_of(rows[0], "transformers")[1] + 3


def test_bfloat16_is_within_twice_the_error_of_torch(models):
    oracle, model = models
    rows = rows_of([[6, (4, 6), (12, 10), 5, 30], [(3, 4, 6), 12]])
    batch = our_batch(rows, 96, 256, 2)
    inputs = oracle_inputs(rows)
    real = batch["segment_ids"][:, : inputs["input_ids"].shape[1]] > 0

    abstract = nnx.eval_shape(lambda: Qwen2_5_VL(model.config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    graph, _ = nnx.split(abstract)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), nnx.state(model))
    ours = jax.jit(lambda params, batch: nnx.merge(graph, params)(batch))(half, batch)
    ours = np.asarray(ours, np.float32)[:, : real.shape[1]][real]
    with torch.no_grad():
        exact = oracle(**inputs).logits.numpy()[real]
        theirs = copy.deepcopy(oracle).to(torch.bfloat16)(**inputs).logits.float().numpy()[real]
    error = np.sqrt(np.mean((ours - exact) ** 2))
    assert error < 2 * np.sqrt(np.mean((theirs - exact) ** 2))
    assert np.abs(ours - exact).max() < 2 * np.abs(theirs - exact).max()
