"""Settings that change over a run: their curves, and that a loss takes them without being compiled again."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.config_values import CURVES as NAMES
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training import rl, rl_episode
from pixel_reasoner_jax.training.losses import has_entropy_gradient, policy_loss
from pixel_reasoner_jax.training.policy_update import UpdatePasses, details_of, passes_asked_for, score_passes
from pixel_reasoner_jax.training.rl_settings import check_settings
from pixel_reasoner_jax.training.schedules import CURVES, check_schedules, config_at, progress_of, values_at
from pixel_reasoner_jax.training.update_schedule import UpdateSchedule
from tests.training.test_joint_terms import papo
from tests.training.test_passes import Recording, config_of, run_of
from tests.training.test_policy_losses import tokens


def scheduled(*schedules, **settings):
    return config_of(schedules=schedules, **settings)


def test_curves():
    """Visionary-R1's weight of KL, (beta / 2)(1 + cos(pi * epoch)), is a cosine to 0."""
    config = scheduled(
        ("auxiliary.kl", "cosine", 0.04, 0.0),
        ("grpo.clip_low", "linear", 0.1, 0.3),
        ("rollout.temperature", "steps", 1.0, 0.5, 0.25),
    )
    at = {progress: values_at(config, progress) for progress in (0.0, 0.25, 0.5, 1.0)}
    assert [at[p]["auxiliary.kl"] for p in (0.0, 0.5, 1.0)] == pytest.approx([0.04, 0.02, 0.0])
    assert at[0.25]["auxiliary.kl"] == pytest.approx(0.02 * (1 + np.cos(np.pi / 4)))
    assert [at[p]["grpo.clip_low"] for p in (0.0, 0.25, 1.0)] == pytest.approx([0.1, 0.15, 0.3])
    assert [at[p]["rollout.temperature"] for p in (0.0, 0.25, 0.5, 1.0)] == [1.0, 1.0, 0.5, 0.25]
    assert [progress_of(episode, 5) for episode in (1, 3, 5)] == [0.0, 0.5, 1.0] and progress_of(1, 1) == 0.0
    assert tuple(CURVES) == NAMES


def test_an_episode_has_a_config_of_its_own():
    config = scheduled(("auxiliary.kl", "linear", 0.0, 1.0), ("passes.blurred.strength", "linear", 0.4, 0.0))
    config.passes.blurred = dict(context="noisy", strength=0.9, policy="present", entropy=0.0)
    later = config_at(config, 0.5)
    assert (later.auxiliary.kl, later.passes.blurred.strength) == (0.5, 0.2)
    assert (config.auxiliary.kl, config.passes.blurred.strength) == (0.0, 0.9)
    # What is 0 for now is there all the same: the loss has one form in the whole run.
    first = config_at(config, 0.0)
    assert first.auxiliary.kl == 0 and details_of(first) == details_of(later) == ("reference", "auxiliary.kl")
    assert [one.label for one in passes_asked_for(first)] == ["reference"]
    plain = config_of()
    assert config_at(plain, 0.5) is plain


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            ("auxiliary.kl", "sine", 0.1, 0.0),
            "config.schedules is .*: it must be tuples of a key, one of linear, cosine",
        ),
        (("auxiliary.kl", "linear", 0.1), "config.schedules is"),
        (("auxiliary.kl", "linear", 0.1, 0.2, 0.3), "config.schedules is"),
        (("auxiliary.kl", "linear", 0.1, "0"), "config.schedules is"),
        (("auxiliary.lk", "linear", 0.1, 0.0), "'auxiliary.lk' is no setting; write its whole key"),
        (("auxiliary", "linear", 0.1, 0.0), "'auxiliary' cannot be scheduled"),
        (("auxiliary.kl.more", "linear", 0.1, 0.0), "'auxiliary.kl.more' is no setting"),
        (("auxiliary.kl_estimator", "linear", 0.1, 0.0), "'auxiliary.kl_estimator' is no number with a fraction"),
        (("grpo.sampling_rounds", "linear", 1, 2), "'grpo.sampling_rounds' is no number with a fraction"),
        (("grpo.queries_per_episode", "linear", 1, 2), "'grpo.queries_per_episode' cannot be scheduled"),
        (
            ("optimizer.learning_rate", "linear", 1, 2),
            "'optimizer.learning_rate' cannot be scheduled; numbers of auxil",
        ),
        (
            ("curiosity.alpha", "linear", 1, 0),
            "curiosity.alpha and curiosity.beta are the run's own: schedule the weight",
        ),
        (("grpo.clip_low", "linear", 0.2, 2.0), "config.grpo.clip_low is 2.0: it must be between 0 and 1"),
    ],
)
def test_what_cannot_be_scheduled_is_named(schedule, message):
    with pytest.raises(ConfigError, match=message):
        check_schedules(scheduled(schedule))
    with pytest.raises(ConfigError, match="'auxiliary.kl' is there more than once"):
        check_settings(scheduled(*[("auxiliary.kl", "linear", 0.1, 0.0)] * 2))


def test_the_loss_takes_values_that_are_scheduled_and_is_compiled_once():
    logprobs, entropy, arrays = tokens()
    logprobs[0, :4] = arrays["logprobs"][0, :4] + 0.5  # without ratios that all else would vanish beside
    keys = ("auxiliary.kl", "auxiliary.entropy", "grpo.clip_low", "grpo.clip_high", "auxiliary.terms.mine.coefficient")
    terms = dict(auxiliary__terms__mine__function=f"{__name__}:surprise")
    config = scheduled(*((key, "linear", 0.0, 0.5) for key in keys), **terms)
    assert has_entropy_gradient(config) and not has_entropy_gradient(config_of())
    assert details_of(config) == ("reference", *keys) and score_passes(config) == 1
    arrays = {name: np.float32(arrays[name]) for name in ("target_mask", "advantages", "logprobs", "reference")}
    traced = []

    def loss(*arguments):
        traced.append(True)
        return policy_loss(config)(*arguments)

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    inputs = np.float32(logprobs), np.float32(entropy)
    for progress in (0.0, 0.5, 1.0):
        values = values_at(config, progress)
        details = arrays | {key: np.full(logprobs.shape, value, np.float32) for key, value in values.items()}
        settings = {key.replace(".", "__"): value for key, value in values.items()}
        constant = jax.value_and_grad(policy_loss(config_of(**terms, **settings)), (0, 1), has_aux=True)
        (wanted, figures), slopes = constant(*inputs, arrays, 23.0)
        (got, found), gradients = compiled(*inputs, details, 23.0)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
        for one, other in zip(gradients, slopes, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
        for name, figure in figures.items():
            np.testing.assert_allclose(found[name], figure, rtol=1e-5, atol=1e-7, err_msg=name)
    assert len(traced) == 1


def surprise(tokens, settings):
    return -tokens.logprobs


def test_every_batch_of_an_update_carries_the_values_of_its_episode(start, sequences_of_two_queries):
    """In padding too, and in the rows of a pass: the loss may look anywhere."""
    processor = Processor.from_pretrained(start / "model")
    config = papo(schedules=(("grpo.clip_low", "linear", 0.1, 0.3), ("auxiliary.entropy", "linear", 0.5, 0.0)))
    passes, training = UpdatePasses(config, Recording(), None), run_of(config, processor)
    update = {0: sequences_of_two_queries, 1: []}
    state = types.SimpleNamespace(params="now", step=0)
    for progress, clip_low in ((0.0, 0.1), (1.0, 0.3)):
        passes.begin_episode(state, [update], training, config_at(config, progress))
        agreed = training.agree_on_shapes(training.plan(update))
        made, _ = passes.prepare(state, agreed, agreed())
        assert len(made) == 2 and made[0].keys() >= set(details_of(config))
        for batch in made:
            assert (batch["grpo.clip_low"] == np.float32(clip_low)).all()
            assert batch["grpo.clip_low"].shape == batch["target_mask"].shape


def test_a_run_s_parts_take_the_values_of_an_episode():
    config = scheduled(("rollout.temperature", "linear", 1.0, 0.5), ("rewards.terms.bonus.weight", "linear", 1.0, 0.0))
    fields = dict.fromkeys(field for field in rl_episode.Learner.__dataclass_fields__)
    learner = rl_episode.Learner(
        **fields | dict(config=config, schedule=UpdateSchedule(6, 2), sampling=rl_episode.sampling_of(config))
    )
    later = learner.in_episode(3)
    assert (later.sampling.temperature, later.config.rewards.terms.bonus.weight) == (0.5, 0.0)
    assert learner.in_episode(2).sampling.temperature == 0.75 and learner.sampling.temperature == 1.0
    plain = rl_episode.Learner(**fields | dict(config=config_of(), schedule=UpdateSchedule(6, 2)))
    assert plain.in_episode(3) is plain


@pytest.mark.slow
def test_a_run_follows_its_schedules(rl_config, luck_pays):
    """The reference is a part of the loss from the second episode on; the last one samples coldly."""
    rl_config.schedules = (
        ("auxiliary.kl", "steps", 0.0, 0.0, 0.1, 0.1),
        ("auxiliary.entropy", "linear", 0.0, 0.01),
        ("rollout.temperature", "steps", 1.0, 1.0, 1.0, 1e-3),
        ("rewards.terms.bonus.weight", "linear", 1.0, 0.0),
    )
    lines = read_metrics(rl.run(rl_config).parent)
    assert len(lines) == 4 and all("reference_kl" in line for line in lines)
    assert lines[-1]["entropy"] < 0.5 * lines[0]["entropy"]


def quadratic(progress, first, last):
    return first + (last - first) * progress**2


def test_a_curve_of_ones_own(monkeypatch):
    config = load_config("rl_qwen2_5_vl_7b")
    config.schedules = (("auxiliary.kl", f"{__name__}:quadratic", 0.0, 0.4),)
    check_schedules(config)
    assert values_at(config, 0.5) == {"auxiliary.kl": pytest.approx(0.1)}
    monkeypatch.setitem(globals(), "quadratic", lambda progress, first, last: "none")
    with pytest.raises(UserError, match="curve .* must be a finite number"):
        values_at(config, 0.5)
    monkeypatch.setitem(globals(), "quadratic", lambda progress, first, last: -1.0)
    with pytest.raises(ConfigError, match="auxiliary.kl is -1.0"):
        check_schedules(config)
