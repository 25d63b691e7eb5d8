"""Terms of a loss over several passes: their gradient is that of the formula, through each of the passes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pixel_reasoner_jax.config_values import OPEN
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training import rl
from pixel_reasoner_jax.training.contexts import CONTEXTS, Change
from pixel_reasoner_jax.training.losses import has_entropy_gradient, policy_loss
from pixel_reasoner_jax.training.policy_update import (
    check_update_parts,
    details_of,
    gradient_passes,
    score_passes,
)
from pixel_reasoner_jax.training.shaping import dependency, largest_in_sequences, relative_weights
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.update_view import Linearized, UpdateView
from tests.documents import undocumented
from tests.training.test_passes import Recording, config_of, prepared

MASKED = {"masked": dict(context="masked", strength=0.5, entropy=-0.02)}


@pytest.fixture(scope="module")
def processor(start):
    return Processor.from_pretrained(start / "model")


@pytest.fixture
def sequences(sequences_of_two_queries):
    return sequences_of_two_queries


def perception(view, settings):
    """PAPO's: -(exp(d) - d - 1), where d is what the masked image takes from a log-probability."""
    d = np.clip(view.logprobs("masked").astype(np.float64) - view.logprobs("present"), -20, 20)
    return Linearized(1 + d - np.exp(d), {"present": np.exp(d) - 1, "masked": 1 - np.exp(d)})


perception.gradients = ("present", "masked")


def papo(*shaping, **settings):
    config = config_of(*shaping, passes=MASKED, auxiliary__entropy=-0.03, **settings)
    config.auxiliary.terms.perception = dict(function=f"{__name__}:perception", coefficient=0.4)
    return config


def formula(config, shown, others, old):
    """The loss of all parameters, written out: a function of the logits of sequences as asked and as masked."""
    count = sum(one.targets for one in shown)

    def of_logits(logits, masked):
        total = 0.0
        for one, other, mine, theirs, before in zip(shown, others, logits, masked, old, strict=True):
            where = np.flatnonzero(one.train[1:])
            lp, lp_masked = (jax.nn.log_softmax(rows[where] / 0.7) for rows in (mine, theirs))
            entropy, entropy_masked = (-(jnp.exp(rows) * rows).sum(-1) for rows in (lp, lp_masked))
            lp, lp_masked = (rows[jnp.arange(len(where)), one.tokens[where + 1]] for rows in (lp, lp_masked))
            assert (other.tokens[where + 1] == one.tokens[where + 1]).all()
            ratio, d = jnp.exp(lp - before), lp_masked - lp
            policy = -jnp.minimum(ratio * one.advantage, jnp.clip(ratio, 0.8, 1.35) * one.advantage)
            term = policy - 0.4 * (jnp.exp(d) - d - 1) + 0.03 * entropy + 0.02 * entropy_masked
            total += term.mean() / len(shown)  # the mean of the sequences' means
        return total

    assert count
    return of_logits


@pytest.mark.slow
def test_the_gradient_is_that_of_the_formula_through_both_passes(start, processor, sequences):
    """By differentiating a plain forward of both, in which every sequence has a row."""
    config = papo(grpo__aggregation="sequence_mean")
    model, rng = Qwen2_5_VL.from_pretrained(start / "model"), np.random.default_rng(4)
    graph, params = nnx.split(model)
    trainer = Trainer(
        model,
        optax.sgd(1.0),
        policy_loss(config),
        details=details_of(config),
        entropy_gradient=has_entropy_gradient(config),
    )
    others = [CONTEXTS["masked"](one, Change(0.5, processor, (0, 3))) for one in sequences]
    batches = [processor.batch([(one.tokens, one.media) for one in some], 160) for some in (sequences, others)]

    def logits(params, batch):
        return nnx.merge(graph, params)(batch)

    before = [np.asarray(jax.nn.log_softmax(rows / 0.7)) for rows in jax.jit(logits)(params, batches[0])]
    given, old = [], []
    for one, rows in zip(sequences, before, strict=True):
        where = np.flatnonzero(one.train[1:])
        sampled = np.zeros(len(one.tokens), np.float32)
        sampled[where + 1] = rows[where, one.tokens[where + 1]] + rng.normal(scale=0.3, size=len(where))
        given.append(dataclasses.replace(one, logprobs=sampled))
        old.append(sampled[where + 1])

    def loss(params):
        return formula(config, sequences, others, old)(*(logits(params, batch) for batch in batches))

    value, expected = jax.jit(jax.value_and_grad(loss))(params)
    update = {0: given[:3], 1: given[3:]}
    made, figures, agreed, unprepared = prepared(config, trainer, [update], processor, params=params)
    assert len(made) == 2 * len(unprepared)
    moved, metrics = trainer.update(trainer.init(jax.tree.map(jnp.copy, params)), made)
    assert metrics["tokens"] == sum(one.targets for one in sequences)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4, atol=1e-6)
    got = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, moved.params)
    norm = float(optax.tree.norm(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * norm), got, expected)
    without = {**made[-1], "slopes": np.zeros_like(made[-1]["slopes"])}  # the test would see what is left out
    fewer, _ = trainer.update(trainer.init(jax.tree.map(jnp.copy, params)), [*made[:-1], without])
    missing = optax.tree.norm(jax.tree.map(lambda a, b: a - b, fewer.params, moved.params))
    assert float(missing) > 1e-3 * norm and set(figures) == {"aux_perception", "entropy_masked"}


class Apart(Recording):
    """Tokens have the log-probability -1 in the first pass, and differences from 0 to 0.4 from that in the second."""

    def score(self, params, batches):
        scores = super().score(params, batches)
        size = 0.1 * (len(self.asked) - 1)
        return [
            {"logprobs": size * (one["logprobs"] % 5) - 1, "entropy": np.ones_like(one["entropy"])} for one in scores
        ]


def of_loss(config, batches, count):
    """The sums of the loss's figures, and its derivatives by log-probabilities and entropies, at -1 and at 1."""
    figures, slopes = [], []
    for batch in batches:
        details = {name: batch[name] for name in ("target_mask", "advantages", "logprobs", *details_of(config))}
        inputs = np.full(batch["targets"].shape, -1.0, np.float32), np.ones(batch["targets"].shape, np.float32)
        gradient = jax.grad(policy_loss(config), (0, 1), has_aux=True)
        of_batch, found = gradient(*inputs, details, count)
        figures.append(found)
        slopes.append(of_batch)
    return {name: float(sum(one[name] for one in figures)) for name in figures[0]}, slopes


def test_rows_of_a_pass_count_in_no_figure_and_no_denominator(processor, sequences):
    """Each row has the derivatives of the formula, by finite differences, and figures are as without further rows."""
    config = papo()
    made, figures, agreed, before = prepared(config, Apart(), [{0: sequences[:3], 1: sequences[3:]}], processor)
    assert score_passes(config) == 2 and gradient_passes(config) == 2 and has_entropy_gradient(config)
    assert details_of(config) == ("slopes", "values", "entropy_slopes")
    ours, rows = made[: len(before)], made[len(before) :]
    count = float(UpdateView(agreed, ours).size.tokens)
    (with_rows, slopes), (without, _), (plain, plain_slopes) = (
        of_loss(*which, count)
        for which in ((config, made), (config, ours), (config_of(auxiliary__entropy=-0.03), ours))
    )

    def formula_of(lp, lp_masked):
        return -0.4 * (np.exp(lp_masked - lp) - (lp_masked - lp) - 1)

    place = [np.arange(batch["targets"].size).reshape(batch["targets"].shape) for batch in ours]
    for number, batch in enumerate(ours):
        mask, masked = batch["target_mask"] > 0, 0.1 * (place[number] % 5) - 1
        by_lp = (formula_of(-1 + 1e-5, masked) - formula_of(-1 - 1e-5, masked)) / 2e-5
        by_masked = (formula_of(-1, masked + 1e-5) - formula_of(-1, masked - 1e-5)) / 2e-5
        got = slopes[number][0] - plain_slopes[number][0], slopes[len(ours) + number][0]
        for slope, wanted in zip(got, (by_lp, by_masked), strict=True):
            np.testing.assert_allclose(slope, np.where(mask, wanted, 0.0) / count, atol=1e-6)
        np.testing.assert_allclose(slopes[number][1], mask * 0.03 / count, rtol=1e-5)
        np.testing.assert_allclose(slopes[len(ours) + number][1], mask * 0.02 / count, rtol=1e-5)
    value = np.concatenate(
        [formula_of(-1, 0.1 * (p % 5) - 1)[b["target_mask"] > 0] for p, b in zip(place, ours, strict=True)]
    )
    assert without["loss"] - plain["loss"] == pytest.approx(value.mean(), rel=1e-4)
    assert figures == pytest.approx({"aux_perception": value.mean() / 0.4, "entropy_masked": 1.0})
    assert with_rows.pop("loss") - without.pop("loss") == pytest.approx(0.02, rel=1e-4)  # of the entropies alone
    assert with_rows == pytest.approx(without)
    for batch in rows:
        assert not batch["target_mask"].any()  # of which the denominator is


def test_a_response_that_is_replayed_has_its_slopes_twice(processor, sequences):
    config, trainer = papo(), Recording()
    made, _, agreed, before = prepared(config, trainer, [{0: [sequences[0], sequences[0]], 1: []}], processor)
    count = sum((batch["entropy_slopes"] != 0).sum() for batch in made[len(before) :])
    assert count == 2 * sequences[0].targets


def wrong_passes(view, settings):
    return Linearized(np.zeros(len(view.sampled)), {"present": np.zeros(len(view.sampled))})


wrong_passes.gradients = ("present", "masked")


def no_numbers(view, settings):
    return Linearized(np.zeros(len(view.sampled)), {"present": np.full(len(view.sampled), np.nan)})


no_numbers.gradients = ("present",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_passes", "auxiliary term 'mine' must return Linearized with slopes of present, masked"),
        ("no_numbers", "auxiliary term 'mine', its slopes of 'present', must be a finite number for each of"),
    ],
)
def test_a_joint_term_that_is_none_is_named(processor, sequences, name, message):
    config = config_of(passes=MASKED)
    config.auxiliary.terms.mine = dict(function=f"{__name__}:{name}", coefficient=1.0)
    with pytest.raises(UserError, match=message):
        prepared(config, Recording(), [{0: sequences, 1: []}], processor)


@pytest.mark.parametrize("change", [dict(policy="old"), dict(context="as_asked")])
def test_gradients_go_through_passes_of_the_present_policy_alone(change):
    config = papo()
    config.passes.masked.update(change)
    with pytest.raises(
        UserError, match="has a gradient through the pass 'masked': it must be one of config.passes with"
    ):
        check_update_parts(config)


# Terms of a chunk of tokens.


def surprise(tokens, settings):
    """-lp, as VPPO adds it, by a detail of one's own."""
    return -tokens.logprobs * tokens.details["halves"] * tokens.details[f"{__name__}:places"]


def halves(view, config):
    view.figure("half", np.full(len(view.sampled), config.grpo.clip_low))
    return np.full(len(view.sampled), 0.5)


def places(view, config):
    return np.arange(len(view.sampled)) % 3


surprise.details = (halves, f"{__name__}:places")


def of_the_wrong_shape(tokens, settings):
    return tokens.logprobs.sum()


def test_a_term_of_ones_own_is_added_with_its_coefficient(processor, sequences):
    config = config_of(grpo__aggregation="sequence_mean")
    config.auxiliary.terms.mine = dict(function=f"{__name__}:surprise", coefficient=0.06)
    names = ("aggregation", "halves", f"{__name__}:places")
    assert details_of(config) == names and score_passes(config) == 0 and gradient_passes(config) == 1
    made, figures, agreed, before = prepared(config, None, [{0: sequences, 1: []}], processor)
    assert figures == pytest.approx({"half": 0.2})
    plain = config_of(grpo__aggregation="sequence_mean")
    view = UpdateView(agreed, made)
    for batch in made:
        mask = batch["target_mask"] > 0
        logprobs = np.where(mask, -2.0, -1e30).astype(np.float32)
        details = {name: batch[name] for name in ("target_mask", "advantages", "logprobs", *names)}
        results = [
            jax.value_and_grad(policy_loss(one), has_aux=True)(logprobs, np.ones_like(logprobs), details, 7.0)
            for one in (config, plain)
        ]
        factor = np.where(mask, 0.5 * batch[f"{__name__}:places"], 0.0) / 7.0
        ((loss, found), gradient), ((other, _), plain_gradient) = results
        np.testing.assert_allclose(found["aux_mine"], 2.0 * factor.sum(), rtol=1e-5)
        weighted = 0.06 * factor * batch["aggregation"]
        np.testing.assert_allclose(loss - other, 2.0 * weighted.sum(), rtol=1e-4)
        np.testing.assert_allclose(gradient - plain_gradient, -weighted, rtol=1e-3, atol=1e-6)
    assert view.size.sequences == 4


def test_a_term_of_another_shape_is_named():
    config = config_of()
    config.auxiliary.terms.mine = dict(function=f"{__name__}:of_the_wrong_shape", coefficient=1.0)
    details = {name: jnp.ones((2, 3)) for name in ("target_mask", "advantages", "logprobs")}
    with pytest.raises(UserError, match=r"auxiliary term 'mine' must return a number for each token, \(2, 3\); it is"):
        policy_loss(config)(jnp.ones((2, 3)), jnp.ones((2, 3)), details, 6.0)


def test_terms_are_settings_of_ones_own():
    config = config_of(auxiliary__terms__mine__function="no_module:part", auxiliary__terms__mine__coefficient="-0.01")
    assert config.auxiliary.terms.mine.coefficient == -0.01
    with pytest.raises(UserError, match="auxiliary term 'no_module:part' cannot be imported"):
        check_update_parts(config)
    with pytest.raises(
        UserError, match="config.auxiliary.terms.mine.function is 'accuracy': it must be module:function"
    ):
        config_of(auxiliary__terms__mine__function="accuracy")


def other_halves(view, config):
    return np.zeros(len(view.sampled))


other_halves.__name__ = "halves"


def clashing(tokens, settings):
    return tokens.logprobs


clashing.details = (other_halves,)


def nameless(tokens, settings):
    return tokens.logprobs


nameless.details = (3,)


@pytest.mark.parametrize(
    ("name", "message"),
    [("clashing", "'halves', and another function has this name"), ("nameless", "asks for the detail 3: give names")],
)
def test_details_that_cannot_be_told_apart_are_named(name, message):
    config = config_of()
    config.auxiliary.terms.mine = dict(function=f"{__name__}:surprise", coefficient=1.0)
    config.auxiliary.terms.other = dict(function=f"{__name__}:{name}", coefficient=1.0)
    with pytest.raises(UserError, match=message):
        check_update_parts(config)


# Runs.


def by_dependency(view, settings):
    """VPPO's shaping, as docs/rl.md has it."""
    values = dependency(view.logprobs("before"), view.logprobs("old"))
    means = view.sequence_means(values)
    weights = relative_weights(means, view.gathered(means), least=0.9).repeat(view.lengths)
    kept = largest_in_sequences(values, view.lengths, 0.4)
    view.figure("kept", kept)
    return view["advantages"] * weights * kept


by_dependency.passes = ("before", "old")


def with_passes(config):
    config.passes.masked = OPEN["passes"] | dict(context="masked", strength=0.6, entropy=-0.03)
    config.passes.before = OPEN["passes"] | dict(context="text_only", policy="old")
    config.auxiliary.terms.perception = dict(function=f"{__name__}:perception", coefficient=0.01)
    config.auxiliary.update(dict(entropy=-0.03, kl=0.1))
    config.grpo.shaping = (f"{__name__}:by_dependency",)
    config.optimizer.update(dict(warmup_fraction=0.0, learning_rate=1e-2))
    config.train.update(dict(batch_size=4, steps=2))
    return config


@pytest.mark.slow
def test_a_run_trains_with_passes_of_every_kind(rl_config, luck_pays):
    """Two updates in an episode, the second of another policy than the one that sampled."""
    [line] = read_metrics(rl.run(with_passes(rl_config)).parent)
    assert line["updates"] == 2 and not undocumented(line.keys() - {"kept"})
    assert 0.4 <= line["kept"] < 0.5 and line["entropy_masked"] > 0 and line["aux_perception"] <= 0
    assert {f"seconds_pass_{label}" for label in ("old", "present", "reference", "masked", "before")} <= line.keys()


@pytest.mark.slow
def test_a_run_learns_preferences(rl_config, luck_pays):
    """Of two queries, a pair of responses each; the second episode is away from the reference."""
    rl_config.grpo.loss, rl_config.replay.method = "preference", "pairs"
    rl_config.optimizer.update(dict(warmup_fraction=0.0, learning_rate=1e-2))
    rl_config.train.update(dict(batch_size=4, steps=2))
    first, second = read_metrics(rl.run(rl_config).parent)
    assert first["preference_pairs"] == second["preference_pairs"] == 2 and first["replayed"] == 0
    assert first["loss"] == pytest.approx(np.log(2), rel=1e-4) and first["preference_margin"] == pytest.approx(
        0, abs=1e-5
    )
    assert abs(second["preference_margin"]) > 1e-4 and not undocumented(second)
