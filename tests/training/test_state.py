"""The update: exact under accumulation, equal to the equations in float64, and blind to what carries no loss."""

import dataclasses
import functools
import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import log_softmax

from data_pipeline.pipeline import render_trajectory
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.buckets import vision_row
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.processing import Geometry, Processor
from pixel_reasoner_jax.training import rl, sft
from pixel_reasoner_jax.training.losses import policy_loss
from pixel_reasoner_jax.training.packing import Sequence, build, largest_batch, pack, plan, smallest_shape, unpack
from pixel_reasoner_jax.training.state import DETAILS, Trainer
from pixel_reasoner_jax.training.token_loss import token_loss
from tests.forward import forward, full_logits


@pytest.fixture(scope="module")
def processor(start):
    return Processor.from_pretrained(start / "model")


@pytest.fixture
def model(start):
    return Qwen2_5_VL.from_pretrained(start / "model")


@pytest.fixture(scope="module")
def sequences(start, processor):
    """Eight trajectories with made-up advantages and log-probabilities close to the model's."""
    rng = np.random.default_rng(1)
    model = Qwen2_5_VL.from_pretrained(start / "model")
    source = RecordSource(start / "trajectories", "trajectory")
    result = []
    for index in range(8):
        trajectory = render_trajectory(source[index], processor)
        logits = full_logits(model, processor, trajectory)
        logprobs = np.zeros(len(trajectory.tokens))
        logprobs[1:] = log_softmax(logits, -1)[np.arange(len(logits) - 1), trajectory.tokens[1:]]
        trajectory.logprobs = (logprobs + rng.normal(scale=0.3, size=len(logprobs))).astype(np.float32)
        trajectory.temperatures = np.ones(len(logprobs), np.float32)
        result.append(Sequence.of(trajectory, advantage=float(rng.normal())))
    return result


def step(model, loss, batches, **options):
    """Parameters and figures after one step of plain gradient descent, so that they show the gradient itself."""
    trainer = Trainer(model, optax.sgd(1.0), loss, **options)
    before = jax.device_get(nnx.to_pure_dict(trainer.init().params))
    state, metrics = trainer.update(trainer.init(), batches)
    after = jax.device_get(nnx.to_pure_dict(state.params))
    return jax.tree.map(lambda a, b: a - b, before, after), metrics


grpo = policy_loss(load_config("rl_qwen2_5_vl_7b"))


@pytest.mark.parametrize("loss", [pytest.param(sft._loss, marks=pytest.mark.slow), grpo])
def test_packed_and_accumulated_is_what_every_sequence_alone_adds_up_to(start, processor, sequences, loss):
    load = functools.partial(Qwen2_5_VL.from_pretrained, start / "model")
    rows = [[sequence] for sequence in sequences]
    patches = vision_row([media for sequence in sequences for media in sequence.media], processor.geometry)
    alone = [build(rows, processor, len(rows), smallest_shape(rows, processor, len(rows), 160, patches))]
    assert alone[0]["vision"] is not None and alone[0]["segment_ids"].max() == 1
    packed = pack(sequences, processor, rows=2, row_length=300)
    assert len(packed) > 1 and packed[0]["segment_ids"].max() > 1
    (expected, expected_metrics), (got, metrics) = (step(load(), loss, batches) for batches in (alone, packed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, expected)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_grpo_gradient_equals_the_equation_in_float64(start, model, processor, sequences):
    """The gradient with respect to the output embedding, by way of dL/dlogits, written out in float64."""
    batches = pack(sequences, processor, rows=8, row_length=160)
    (batch,) = batches
    logits = forward(model, batch).astype(np.float64)
    tokens, targets, mask = batch["tokens"], batch["targets"], batch["target_mask"] > 0
    rows = np.arange(len(tokens))[:, None]
    chosen = tokens[rows, targets]
    z = logits[rows, targets - 1]
    logprob = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
    mine = np.take_along_axis(logprob, chosen[..., None], -1)[..., 0]
    ratio = np.exp(np.where(mask, mine - batch["logprobs"], 0.0))
    advantage = batch["advantages"].astype(np.float64)
    unclipped, clipped = ratio * advantage, np.clip(ratio, 0.8, 1.35) * advantage
    expected_loss = -np.where(mask, np.minimum(unclipped, clipped), 0.0).sum() / mask.sum()
    d_logprob = np.where(mask & (unclipped <= clipped), -unclipped, 0.0) / mask.sum()
    assert ((unclipped > clipped) & mask).any(), "no token is clipped: the case is too easy"

    probability = np.exp(logprob)
    onehot = np.zeros_like(probability)
    np.put_along_axis(onehot, chosen[..., None], 1.0, -1)
    d_logits = d_logprob[..., None] * (onehot - probability)

    hidden = _hidden(model, batch)[rows, targets - 1]
    untied = _loss_of_embedding(hidden, batch, grpo)
    value, gradient = jax.jit(jax.value_and_grad(untied))(model.output_embedding())
    hidden = np.asarray(hidden, np.float64)
    np.testing.assert_allclose(value, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, np.einsum("rkv,rkh->vh", d_logits, hidden), atol=1e-6)
    _, metrics = step(model, grpo, batches)
    np.testing.assert_allclose(metrics["loss"], expected_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_fraction"], ((unclipped > clipped) & mask).sum() / mask.sum(), rtol=1e-5)


@nnx.jit
def _hidden(model, batch):
    embedded = model.embed(batch["tokens"], batch["vision_index"], model.encode_vision(batch["vision"]))
    return model.hidden_states(embedded, batch["positions"], batch["segment_ids"])


def _loss_of_embedding(hidden, batch, loss):
    rows = np.arange(len(batch["tokens"]))[:, None]
    chosen = batch["tokens"][rows, batch["targets"]]
    details = {name: batch[name] for name in DETAILS}

    def of_embedding(embedding):
        return token_loss(loss, hidden, embedding, chosen, details, float(batch["target_mask"].sum()))[0]

    return of_embedding


def test_scores_are_those_of_every_sequence_alone(start, model, processor, sequences):
    """Log-probabilities and entropies against float64, taken apart from rows that hold several sequences."""
    forbidden = np.arange(model.config.vocab_size) < 3
    cooler = [dataclasses.replace(s, temperatures=np.full(len(s.tokens), 0.7, np.float32)) for s in sequences]
    trainer = Trainer(model, optax.sgd(1.0), grpo, forbidden=forbidden)
    planned = plan(cooler, processor, rows=2, row_length=300)
    batches = [build(batch.rows, processor, 2, batch.shape) for batch in planned]
    assert len(batches) > 1 and any(len(row) > 1 for batch in planned for row in batch.rows)
    scores = trainer.score(nnx.state(model), batches)
    assert all(one["logprobs"].shape == b["targets"].shape for one, b in zip(scores, batches, strict=True))
    logprobs, entropies = (unpack(planned, [one[name] for one in scores]) for name in ("logprobs", "entropy"))
    assert sorted(id(sequence) for sequence, _ in logprobs) == sorted(map(id, cooler))
    for (sequence, logprob), (same, entropy) in zip(logprobs, entropies, strict=True):
        assert same is sequence and logprob.dtype == entropy.dtype == np.float32
        where = np.flatnonzero(sequence.train[1:]) + 1
        logits = full_logits(model, processor, sequence).astype(np.float64)[where - 1] / np.float32(0.7)
        expected = log_softmax(np.where(forbidden, -np.inf, logits), -1)
        expected_entropy = -np.where(forbidden, 0, np.exp(expected) * np.where(forbidden, 0, expected)).sum(-1)
        np.testing.assert_allclose(logprob, expected[np.arange(len(where)), sequence.tokens[where]], atol=2e-5)
        np.testing.assert_allclose(entropy, expected_entropy, atol=2e-5)


def test_what_is_masked_carries_no_loss(start, processor, sequences):
    """Another token id in an untrained last position changes no figure."""
    load = functools.partial(Qwen2_5_VL.from_pretrained, start / "model")
    sequence = next(s for s in sequences if not s.train[-1])  # the newline after the last turn
    changed = Sequence(np.append(sequence.tokens[:-1], 5).astype(np.int32), sequence.train, sequence.media)
    plain = Sequence(sequence.tokens, sequence.train, sequence.media)
    one, a = step(load(), sft._loss, pack([plain], processor, rows=1, row_length=160))
    other, b = step(load(), sft._loss, pack([changed], processor, rows=1, row_length=160))
    assert a == b
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_frozen_vision_tower_has_no_gradient_and_no_optimizer_state(model, processor, sequences):
    trainer = Trainer(model, optax.adam(1e-2), sft._loss, freeze_vision=True)
    state = trainer.init()
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.optimizer)]
    assert names and not any("vision" in name for name in names)
    before = jax.device_get(nnx.to_pure_dict(state.params))
    state, _ = trainer.update(state, pack(sequences, processor, rows=8, row_length=160))
    after = jax.device_get(nnx.to_pure_dict(state.params))
    jax.tree.map(np.testing.assert_array_equal, before["vision"], after["vision"])
    assert not np.array_equal(before["language"]["embedding"], after["language"]["embedding"])


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_of_a_model_with_adapters_they_alone_are_trained(model, processor, sequences, freeze_vision):
    add_adapters(model, rank=4, alpha=8.0)
    trainer = Trainer(model, optax.adam(1e-2), sft._loss, freeze_vision=freeze_vision, master_weights=True)
    state = trainer.init()
    assert state.master is None  # adapters are float32 already
    for part in (state.trainable, state.optimizer[0].mu, state.optimizer[0].nu):
        paths = [path for path, _ in nnx.to_flat_state(part)]
        assert len(paths) == 14 and all("adapter" in path for path in paths)
    before = {path: np.asarray(v.get_value()) for path, v in nnx.to_flat_state(state.params)}
    state, _ = trainer.update(state, pack(sequences, processor, rows=8, row_length=160))
    state, _ = trainer.update(state, pack(sequences, processor, rows=8, row_length=160))
    for path, variable in nnx.to_flat_state(state.params):
        assert np.array_equal(before[path], variable.get_value()) != ("adapter" in path), path


def trained(start, processor, sequences, **options):
    """Decoder parameters before and after four updates that are too small for bfloat16."""
    model = Qwen2_5_VL.from_pretrained(start / "model", "float32", param_dtype=options.pop("param_dtype", "bfloat16"))
    # The same numbers for all, whatever their type.
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), nnx.state(model)))
    trainer = Trainer(model, optax.sgd(1.0), sft._loss, **options)
    state = trainer.init()
    before = jax.device_get(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state.trainable))
    for _ in range(4):
        state, _ = trainer.update(state, pack(sequences, processor, rows=8, row_length=160), 1e-4)
    return before, state


def test_master_copies_keep_what_bfloat16_would_lose(start, processor, sequences):
    before, exact = trained(start, processor, sequences, param_dtype="float32", master_weights=True)
    assert exact.master is None
    _, state = trained(start, processor, sequences, master_weights=True)
    _, lossy = trained(start, processor, sequences)

    def change(after):
        changes = jax.tree.map(lambda a, b: np.asarray(a, np.float32) - b, after, before)
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(changes)])

    expected, got = change(exact.trainable), change(state.master)
    assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(expected)
    assert np.linalg.norm(change(lossy.trainable) - expected) > 0.3 * np.linalg.norm(expected)
    # What rollouts and the loss read is the master rounded.
    for master, rounded in zip(jax.tree.leaves(state.master), jax.tree.leaves(state.params), strict=True):
        assert (master.dtype, rounded.dtype) == (jnp.float32, jnp.bfloat16)
        np.testing.assert_array_equal(master.astype(jnp.bfloat16), rounded)


def test_moments_are_float32_from_the_start(model):
    trainer = Trainer(Qwen2_5_VL.create(model.config, param_dtype=jnp.bfloat16), optax.adam(1e-2), sft._loss)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trainer.init().optimizer[0].mu)} == {"float32"}


PROGRAMS = {
    "cpu": "4058e6edf1dfde627dd7d7c8bfa3c9613bd3cbd8f345fa810aa9582fb05f1e9d",
    "tpu": "191035fd32eadf3a7c5231357d81732ceef28fc10c1c3ab78f6465b8569791d9",
}
"""Hashes of the text of the update's gradient with the paper's settings, names apart, as JAX 0.10.2 writes it."""


@pytest.mark.skipif(jax.__version__ != "0.10.2", reason="another version of JAX may write another text")
@pytest.mark.parametrize("platform", ["cpu", pytest.param("tpu", marks=pytest.mark.slow)])
def test_the_update_of_the_default_settings_is_the_program_that_it_was(platform, monkeypatch):
    """Parts of a loss leave no trace where they are not chosen. After a change of the model or the loss: new hashes."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    config, sizes = load_config("rl_qwen2_5_vl_7b"), Config.preset("tiny")
    model = nnx.eval_shape(lambda: Qwen2_5_VL(sizes, rngs=nnx.Rngs(0)))
    trainer = rl.make_trainer(config, model, np.zeros(sizes.vocab_size, bool))
    state = jax.eval_shape(trainer.init, nnx.state(model))
    batch = largest_batch(Geometry.from_config(sizes.to_hf()), 64, rows=1, row_length=64)
    arguments = state.trainable, state.frozen, None, batch, np.float32(1)
    text = trainer.accumulate.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    names = {name: f"@{number}" for number, name in enumerate(dict.fromkeys(re.findall(r"@\w+", text)))}
    text = re.sub(r"@\w+", lambda found: names[found[0]], text)
    assert hashlib.sha256(text.encode()).hexdigest() == PROGRAMS[platform]


def test_nothing_to_train_changes_nothing(model, processor, sequences):
    untrained = Sequence(sequences[0].tokens, np.zeros_like(sequences[0].train), sequences[0].media)
    trainer = Trainer(model, optax.sgd(1.0), sft._loss)
    trainer.accumulate = trainer.apply = None  # nothing is computed
    state = trainer.init()
    for batches in (pack([untrained], processor, rows=1, row_length=160), []):
        assert trainer.update(state, batches) == (state, {})
