"""What an update computes before its gradient, on real batches; and runs whose loss has parts of every kind."""

from __future__ import annotations

import copy
import dataclasses
import types

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import load_file

from data_pipeline.pipeline import render_trajectory
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.models.layers import ADAPTER
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training import rl, sft
from pixel_reasoner_jax.training.packing import Sequence, plan
from pixel_reasoner_jax.training.policy_update import UpdatePasses, details_of, score_passes
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.token_weights import covariances
from pixel_reasoner_jax.training.training_run import TrainingRun
from pixel_reasoner_jax.training.update_view import UpdateView
from pixel_reasoner_jax.training.virtual_shards import VirtualShards
from tests.documents import undocumented

PARTS = {
    "grpo": dict(loss="gspo", aggregation="sequence_mean", correction="tis", entropy_fraction=0.5),
    "auxiliary": dict(entropy=0.01, kl=0.1, nll=0.05, kl_cov=1.0, kl_cov_fraction=0.1, clip_cov_fraction=0.1),
}
PARTS["auxiliary"]["clip_cov_bounds"] = (0.0, 5.0)
FIGURES = {"correction_weight", "correction_rejected", "entropy_kept", "clip_cov_fraction"}
FIGURES |= {"reference_kl", "nll", "kl_cov", "seconds_pass_old", "seconds_pass_present", "seconds_pass_reference"}


@pytest.fixture(scope="module")
def processor(start):
    return Processor.from_pretrained(start / "model")


@pytest.fixture(scope="module")
def sequences(start, processor):
    """Six responses of made-up advantages; every other one is right."""
    rng, source = np.random.default_rng(0), RecordSource(start / "trajectories", "trajectory")
    made = []
    for index in range(6):
        trajectory = render_trajectory(source[index], processor)
        count = len(trajectory.tokens)
        trajectory.logprobs = -rng.exponential(size=count).astype(np.float32)
        trajectory.temperatures = np.ones(count, np.float32)
        made.append(Sequence.of(trajectory, float(rng.normal()), correct=index % 2))
    return made


class Known:
    """A trainer of which every token has the log-probability and the entropy that are given for its parameters."""

    def __init__(self, **scores):
        self.scores, self.asked = scores, []

    def score(self, params, batches):
        self.asked.append(params)
        return [{name: function(batch) for name, function in self.scores[params].items()} for batch in batches]


def prepared(config, trainer, sequences, processor, first_step=2):
    """The batches of an update, the fourth, of the sequences in two shards, with their details, by `UpdatePasses`.

    `first_step` updates were made before its episode.
    """
    shards = VirtualShards(config, None)
    training = types.SimpleNamespace(
        plan=lambda of: {shard: plan(some, processor, rows=2, row_length=300) for shard, some in of.items()},
        agree_on_shapes=lambda plans: shards.agree_on_shapes(plans, processor, 2),
        processor=processor,
        shards=shards,
    )
    update = {0: sequences[:4], 1: sequences[4:]}
    passes = UpdatePasses(config, trainer, None)
    passes._reference = lambda _: "reference"
    passes.begin_episode(types.SimpleNamespace(params="old", step=first_step), [update, update], training)
    agreed = training.agree_on_shapes(training.plan(update))
    batches = agreed()
    return *passes.prepare(types.SimpleNamespace(params="now", step=3), agreed, batches), agreed, batches


def config_of(**sections):
    config = copy.deepcopy(load_config("rl_qwen2_5_vl_7b"))
    config.data.shards = 2
    for section, values in sections.items():
        config[section].update(values)
    return config


def test_details_are_those_of_every_token(sequences, processor, monkeypatch):
    """Each detail by its sequence's own tokens, found again in the rows."""
    monkeypatch.setattr("pixel_reasoner_jax.training.policy_update._reference", lambda model: None)
    config = config_of(**PARTS)
    assert details_of(config) == ("aggregation", "weights", "sequence_ratios", "reference", "nll", "kl_cov")
    trainer = Known(
        old={"logprobs": lambda batch: batch["logprobs"] + np.float32(0.5) * (batch["advantages"] > 0)},
        now={
            "logprobs": lambda batch: batch["logprobs"] + np.float32(0.25),
            "entropy": lambda batch: batch["targets"].astype(np.float32),
        },
        reference={"logprobs": lambda batch: batch["logprobs"] - np.float32(1.0)},
    )
    batches, figures, agreed, before = prepared(config, trainer, sequences, processor)
    # The parameters that sampled score once for each sequence, though two updates have it: the second has none left.
    assert trainer.asked == ["old", "old", "now", "reference"]
    assert all("weights" not in batch for batch in before)
    pairs = {name: agreed.unpack([batch[name] for batch in batches]) for name in ("logprobs", *details_of(config))}
    assert {shard: len(of_shard) for shard, of_shard in pairs["weights"].items()} == {0: 4, 1: 2}
    total, right = (sum(s.targets for s in some) for some in (sequences, [s for s in sequences if s.correct]))
    drawn_or_dropped = 0
    for shard in (0, 1):
        for number, (sequence, old) in enumerate(pairs["logprobs"][shard]):
            of = {name: values[shard][number][1] for name, values in pairs.items()}
            sampled = sequence.logprobs[1:][sequence.train[1:]]
            moved = 0.5 * (sequence.advantage > 0)
            np.testing.assert_allclose(old, sampled + moved, rtol=1e-6)
            np.testing.assert_allclose(of["reference"], sampled - 1.0, rtol=1e-6)
            np.testing.assert_allclose(of["aggregation"], total / (6 * sequence.targets), rtol=1e-6)
            np.testing.assert_allclose(of["sequence_ratios"], np.exp(0.25 - moved), rtol=1e-5)
            np.testing.assert_allclose(of["nll"], total / right if sequence.correct else 0.0, rtol=1e-6)
            kept = of["weights"] > 0
            np.testing.assert_allclose(of["weights"][kept], np.exp(moved), rtol=1e-5)
            drawn_or_dropped += (~kept).sum()
    assert 0.45 < drawn_or_dropped / total < 0.62  # half by their entropy, and a tenth of all, some of them twice
    # Of the tokens that have moved up by 0.25 since the episode began, or down by 0.25 where the advantage is positive.
    signs = [
        np.sign(values) * (1 - 2 * (one.advantage > 0))
        for of_shard in pairs["kl_cov"].values()
        for one, values in of_shard
    ]
    assert np.concatenate(signs).sum() == int(0.1 * total) == np.abs(np.concatenate(signs)).sum()
    assert figures["kl_cov"] == pytest.approx(0.25 * int(0.1 * total) / total)
    tokens = UpdateView(agreed, before)
    sign = np.repeat([s.advantage > 0 for s in tokens.sequences], tokens.lengths)
    np.testing.assert_allclose(figures["correction_weight"], np.exp(0.5 * sign).mean(), rtol=1e-6)
    np.testing.assert_allclose(figures["logprob_difference"], 0.5 * sign.mean(), rtol=1e-5)
    assert figures["clip_cov_fraction"] == pytest.approx(int(0.1 * total) / total)
    assert figures["correction_rejected"] == 0
    for array, batch in zip(tokens.rows(tokens["logprobs"]), before, strict=True):
        np.testing.assert_array_equal(array, batch["logprobs"] * batch["target_mask"])


def score_of(shift, of_advantage=0.0):
    """A score whose log-probabilities are the sampler's with something added."""
    return {
        "logprobs": lambda batch: (
            batch["logprobs"] + np.float32(shift) + np.float32(of_advantage) * batch["advantages"]
        ),
        "entropy": lambda batch: batch["targets"].astype(np.float32),
    }


def test_kl_cov_has_no_gradient_in_the_first_update_of_an_episode(sequences, processor):
    """Nothing has moved there, and the sign of a difference would be that of rounding."""
    config = config_of(auxiliary=dict(kl_cov=1.0, kl_cov_fraction=0.5))
    trainer = Known(old=score_of(0.0), now=score_of(-1e-7))
    batches, figures, *_ = prepared(config, trainer, sequences, processor, first_step=3)
    assert trainer.asked == ["old", "old", "now"] and score_passes(config) == 2
    assert not any(batch["kl_cov"].any() for batch in batches) and figures["kl_cov"] == 0
    batches, figures, *_ = prepared(config, Known(old=score_of(0.5), now=score_of(0.25)), sequences, processor)
    assert min(batch["kl_cov"].min() for batch in batches) == -1 and figures["kl_cov"] > 0.1
    for batch in batches:  # the ratio of the policy loss is to the sampler's all the same
        assert "logprobs" in batch and batch["kl_cov"].max() == 0


@pytest.mark.parametrize("loss", ["clip", "dual_clip", "gspo", "cispo", f"{__name__}:plain"])
def test_clip_cov_draws_no_token_that_the_clip_has_taken_already(sequences, processor, loss):
    """Every token has gone its advantage's way, those of responses with an advantage of more than 1 beyond the clip."""
    config = config_of(grpo=dict(loss=loss), auxiliary=dict(clip_cov_fraction=1.0, clip_cov_bounds=(0.0, 1e9)))
    given = [
        dataclasses.replace(one, advantage=2.0 * (-1) ** n if n < 3 else 0.1 * n) for n, one in enumerate(sequences)
    ]
    batches, figures, agreed, before = prepared(config, Known(now=score_of(0.0, 0.3)), given, processor)
    tokens = UpdateView(agreed, before)
    advantages = tokens["advantages"]
    covariance = covariances(tokens["logprobs"] + 0.3 * advantages, advantages, tokens.size)
    beyond = np.abs(advantages) > 1 if loss in ("clip", "dual_clip", "gspo") else np.zeros(len(advantages), bool)
    assert figures["clip_cov_fraction"] == pytest.approx(((covariance > 0) & ~beyond).mean())
    left_out = UpdateView(agreed, batches)["weights"] == 0
    np.testing.assert_array_equal(left_out, (covariance > 0) & ~beyond)
    assert (beyond & (covariance > 0)).any() == (loss in ("clip", "dual_clip", "gspo"))


def plain(tokens, settings):
    """A policy loss of one's own."""
    return -tokens.aggregate_weighted(tokens.ratio * tokens.advantages), {}


def one_each(lengths, size, settings):
    """An aggregation of one's own: the sum over all tokens, whatever their number."""
    return [size.tokens] * len(lengths)


def one_too_few(lengths, size, settings):
    return np.ones(len(lengths) - 1)


def halves(log_ratios, lengths, bounds):
    """A correction of one's own."""
    return np.where(log_ratios > 0, bounds[0], bounds[1])


def not_a_number(log_ratios, lengths, bounds):
    return np.log(log_ratios * 0 - 1)


def test_weights_of_ones_own(sequences, processor):
    config = config_of(grpo=dict(aggregation=f"{__name__}:one_each", correction=f"{__name__}:halves"))
    trainer = Known(old=score_of(0.0, 0.3))
    batches, figures, agreed, before = prepared(config, trainer, sequences, processor)
    tokens, rows = UpdateView(agreed, before), UpdateView(agreed, batches)
    np.testing.assert_array_equal(rows["aggregation"], tokens.size.tokens)
    np.testing.assert_array_equal(rows["weights"], np.where(tokens["advantages"] > 0, 0.5, 2.0))
    assert figures["correction_weight"] == pytest.approx(rows["weights"].mean())


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("aggregation", "one_too_few", r"aggregation '.*:one_too_few' must be a finite number for each of 6 sequences"),
        ("correction", "not_a_number", r"correction '.*:not_a_number' must be a finite number for each of \d+ tokens"),
    ],
)
def test_weights_of_ones_own_that_are_none_are_named(sequences, processor, key, name, message):
    with pytest.raises(UserError, match=message):
        prepared(config_of(grpo={key: f"{__name__}:{name}"}), Known(old=score_of(0.0)), sequences, processor)


def test_the_default_computes_nothing_before_an_update(sequences, processor):
    batches, figures, _, before = prepared(config_of(), None, sequences, processor)
    assert batches is before and figures == {}


def test_an_update_without_trained_tokens_needs_nothing(sequences, processor, monkeypatch):
    monkeypatch.setattr("pixel_reasoner_jax.training.policy_update._reference", lambda model: None)
    masked = [dataclasses.replace(one, train=np.zeros_like(one.train)) for one in sequences]
    scores = {"logprobs": lambda batch: batch["logprobs"], "entropy": lambda batch: batch["logprobs"]}
    trainer = Known(old=scores, now=scores, reference=scores)
    _, figures, *_ = prepared(config_of(**PARTS), trainer, masked, processor)
    assert figures == {}


def test_the_reference_of_adapters_is_the_model_without_them(start, processor, sequences):
    """Their base scores as the model that they were added to, after updates that moved them."""
    model = Qwen2_5_VL.from_pretrained(start / "model")
    config = config_of(auxiliary=dict(kl=0.1), lora=dict(rank=2))
    shards = VirtualShards(config, None)
    agreed = shards.agree_on_shapes({0: plan(sequences, processor, rows=6, row_length=300), 1: []}, processor, 6)
    batches = agreed()
    plain = Trainer(model, optax.sgd(1.0), sft._loss).score(nnx.state(model), batches)
    add_adapters(model, rank=2, alpha=8.0)
    adapters, others = nnx.split_state(nnx.state(model), nnx.PathContains(ADAPTER), ...)
    moved = nnx.merge_state(jax.tree.map(lambda leaf: leaf + 0.05, adapters), others)
    trainer = Trainer(model, optax.sgd(1.0), sft._loss)
    passes = UpdatePasses(config, trainer, model)
    (before,), (after,) = (trainer.score(params, batches) for params in (moved, passes._reference(moved)))
    np.testing.assert_allclose(after["logprobs"], plain[0]["logprobs"], atol=1e-6)
    assert np.abs(before["logprobs"] - after["logprobs"]).max() > 1e-3


def with_parts(config, **lora):
    for section, values in PARTS.items():
        config[section].update(values)
    config.lora.update(lora)
    return config


@pytest.mark.parametrize(("updates", "rank"), [(1, 2), pytest.param(2, 0, marks=pytest.mark.slow)])
def test_a_run_trains_with_parts_of_every_kind(rl_config, luck_pays, updates, rank):
    """Sampler and trainer agree, so that the correction has little to do."""
    config = with_parts(rl_config, rank=rank)
    config.train.update(dict(batch_size=8 // updates, steps=updates))
    config.optimizer.update(dict(warmup_fraction=0.0, learning_rate=1e-2))
    [line] = read_metrics(rl.run(config).parent)
    assert line["updates"] == updates and line.keys() >= FIGURES and not undocumented(line)
    assert line["logprob_difference"] < 1e-4 and line["correction_weight"] == pytest.approx(1.0, abs=1e-3)
    assert 0 < line["clip_cov_fraction"] <= 0.1
    # The reference is no part of what is trained: the second update is away from it.
    assert line["reference_kl"] > 1e-6 if updates > 1 else line["reference_kl"] < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_resumed_run_with_parts_ends_where_an_uninterrupted_one_does(rl_config, luck_pays, monkeypatch, rank):
    config = with_parts(rl_config, rank=rank)
    config.train.update(dict(batch_size=4, steps=6, checkpoint_every=1))
    broken = copy.deepcopy(config)
    broken.workdir += "_broken"
    whole = rl.run(config)
    write = TrainingRun.write

    def write_then_die(self, step, metrics):
        write(self, step, metrics)
        if step == 2:
            raise KeyError("killed")

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(TrainingRun, "write", write_then_die)
        rl.run(broken)
    resumed = rl.run(broken, resume=True)
    expected, actual = (load_file(directory / "model.safetensors") for directory in (whole, resumed))
    for name in expected:
        np.testing.assert_array_equal(expected[name], actual[name], err_msg=name)
    lines = [read_metrics(directory.parent)[-1] for directory in (whole, resumed)]
    assert lines[0]["reference_kl"] == lines[1]["reference_kl"] > 0
