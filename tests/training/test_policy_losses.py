"""Policy losses against the equations in float64, case by case: values, and gradients by the log-probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.config_values import KL_ESTIMATORS, LOSSES
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.training.losses import ESTIMATORS, SURROGATES, policy_loss
from pixel_reasoner_jax.training.policy_update import (
    check_update_parts,
    details_of,
    score_passes,
    settle_correction,
)
from pixel_reasoner_jax.training.token_loss import token_loss

SHAPE, NORMALIZER = (4, 9), 23.0
BOTH = ("aggregation", "weights")


def config_of(**settings):
    """The paper's settings, with changes."""
    pairs = [(key.replace("__", "."), str(value)) for key, value in settings.items()]
    return load_config("rl_qwen2_5_vl_7b", pairs)


def tokens(seed=0):
    """Hard tokens: padding whose log-probability is -1e30, a row of padding, ratios of e**±100, an advantage of 0."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(size=SHAPE)
    logprobs = old + rng.normal(scale=0.8, size=SHAPE)
    advantages = np.repeat(rng.normal(size=(SHAPE[0], 1)), SHAPE[1], axis=1)
    mask = rng.random(SHAPE) < 0.7
    mask[0], mask[3], mask[:2, 0] = True, False, True
    logprobs[0, :4], old[0, :4] = [-0.01, -100.0, -0.5, -1e-3], [-100.0, -0.01, -0.5, -3.0]
    advantages[0, :4], advantages[1, 0] = [-1.0, 1.0, 2.0, -2.0], 0.0
    logprobs[~mask] = -1e30
    arrays = dict(target_mask=mask.astype(float), advantages=advantages, logprobs=old)
    arrays |= dict(
        aggregation=rng.uniform(0.2, 3.0, SHAPE), weights=rng.uniform(0.0, 2.0, SHAPE) * (rng.random(SHAPE) < 0.6)
    )
    arrays |= dict(sequence_ratios=rng.uniform(0.5, 1.8, SHAPE), reference=old + rng.normal(size=SHAPE))
    arrays |= dict(
        nll=(rng.random(SHAPE) < 0.5) * 1.7, kl_cov=(rng.random(SHAPE) < 0.3) * rng.choice([-1.0, 0.0, 1.0], SHAPE)
    )
    return logprobs, rng.exponential(size=SHAPE), arrays


def test_the_parts_are_those_that_a_config_may_name():
    assert tuple(SURROGATES) == LOSSES and tuple(ESTIMATORS) == KL_ESTIMATORS


def surrogate(name, logprob, old, advantage, sequence_ratio):
    """-objective of a token with clips 0.2 and 0.35 and dual clip 3, its gradient, and whether it is clipped."""
    ratio = sequence_ratio if name == "gspo" else np.exp(np.clip(logprob - old, -20, 20))
    within = -20 < logprob - old < 20 or name == "gspo"
    bounded = min(max(ratio, 0.8), 1.35)
    if name == "cispo":
        return -bounded * advantage * logprob, -bounded * advantage, bounded != ratio
    if name == "dual_clip" and advantage < 0 and ratio > 3:
        return -3 * advantage, 0.0, True
    if ratio * advantage <= bounded * advantage:
        return -ratio * advantage, -ratio * advantage * within, False
    return -bounded * advantage, 0.0, True


def expected(name, logprobs, arrays, used):
    loss, gradient, clipped = 0.0, np.zeros(SHAPE), 0.0
    for place in np.argwhere(arrays["target_mask"] > 0):
        at = tuple(place)
        weight = np.prod([arrays[detail][at] for detail in used])
        of_token = (array[at] for array in (arrays["logprobs"], arrays["advantages"], arrays["sequence_ratios"]))
        value, slope, is_clipped = surrogate(name, logprobs[at], *of_token)
        loss, clipped = loss + weight * value / NORMALIZER, clipped + is_clipped / NORMALIZER
        gradient[at] = weight * slope / NORMALIZER
    return loss, gradient, clipped


def computed(config, logprobs, entropy, arrays, rows=slice(None)):
    """The loss, its figures, and its gradients by log-probabilities and entropy."""
    arrays = {name: jnp.asarray(array[rows], jnp.float32) for name, array in arrays.items()}
    inputs = [jnp.asarray(array[rows], jnp.float32) for array in (logprobs, entropy)]
    loss = jax.jit(jax.value_and_grad(policy_loss(config), (0, 1), has_aux=True))
    (value, figures), gradients = loss(*inputs, arrays, NORMALIZER)
    return value, figures, *gradients


@pytest.mark.parametrize("used", [(), BOTH])
@pytest.mark.parametrize("name", ["clip", "dual_clip", "gspo", "cispo"])
def test_surrogates_match_float64(name, used):
    logprobs, entropy, arrays = tokens()
    value, slopes, clipped = expected(name, logprobs, arrays, used)
    wanted = {detail: array for detail, array in arrays.items() if detail in used or detail not in BOTH}
    config = config_of(grpo__loss=name)
    got, figures, gradient, _ = computed(config, logprobs, entropy, wanted)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(figures["clip_fraction"], clipped, rtol=1e-5)
    assert figures["loss"] == got and all(np.isfinite(figure) for figure in figures.values())
    # Micro-batches add up.
    parts = [computed(config, logprobs, entropy, wanted, slice(row, row + 2)) for row in (0, 2)]
    np.testing.assert_allclose(sum(part[0] for part in parts), value, rtol=1e-5)
    for figure in figures:
        np.testing.assert_allclose(sum(part[1][figure] for part in parts), figures[figure], rtol=1e-4, atol=1e-6)


def test_dual_clip_bounds_what_clip_leaves_unbounded():
    logprobs, entropy, arrays = tokens()
    assert logprobs[0, 0] - arrays["logprobs"][0, 0] > 20 and arrays["advantages"][0, 0] == -1
    losses = {name: computed(config_of(grpo__loss=name), logprobs, entropy, arrays) for name in ("clip", "dual_clip")}
    assert losses["clip"][0] > 1e6 and losses["dual_clip"][0] < 10
    assert losses["dual_clip"][1]["dual_clip_fraction"] >= 1 / NORMALIZER


def test_the_figures_of_the_default_are_token_means_in_float64():
    logprobs, entropy, arrays = tokens()
    train = arrays["target_mask"] > 0
    _, figures, _, entropy_slopes = computed(
        config_of(), logprobs, entropy, {n: arrays[n] for n in arrays if n not in BOTH}
    )
    difference = (logprobs - arrays["logprobs"])[train]
    log_ratio = np.clip(difference, -20, 20)
    wanted = {
        "ratio": np.exp(log_ratio),
        "logprob_difference": np.abs(difference),
        "kl": np.exp(log_ratio) - 1 - log_ratio,
        "entropy": entropy[train],
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(figures[name], values.sum() / NORMALIZER, rtol=1e-5, err_msg=name)
    assert set(figures) == {*wanted, "loss", "clip_fraction"} and not entropy_slopes.any()


def estimate(name, logprob, reference):
    """An estimate of KL at a token and its derivative by the log-probability."""
    d = logprob - reference
    if name == "k1":
        return d, 1.0
    if name == "k2":
        return d * d / 2, d
    value = np.exp(np.clip(-d, -20, 20)) - np.clip(-d, -20, 20) - 1
    return min(value, 10.0), (1 - np.exp(-d)) * (value < 10 and abs(d) < 20)


@pytest.mark.parametrize("used", [(), ("aggregation",)])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_auxiliary_terms_match_float64(estimator, used):
    """Every term beside the surrogate, whose weight is 0 here; and the gradient by the entropy."""
    logprobs, entropy, arrays = tokens()
    logprobs[0, :4] = [-0.01, -9.0, -0.5, -1e-3]
    arrays["reference"][0, :4] = [-0.02, -1.0, -0.5, -40.0]  # k3 is bounded at the second, and at the last of d 40
    arrays["weights"] = np.zeros(SHAPE)
    coefficients = dict(entropy=-0.3, kl=0.2, nll=0.05, kl_cov=0.4)
    settings = {f"auxiliary__{term}": value for term, value in coefficients.items()}
    value, slopes, entropy_slopes = 0.0, np.zeros(SHAPE), np.zeros(SHAPE)
    means = dict.fromkeys(("reference_kl", "nll"), 0.0)
    for place in np.argwhere(arrays["target_mask"] > 0):
        at = tuple(place)
        weight = arrays["aggregation"][at] if used else 1.0
        divergence, slope = estimate(estimator, logprobs[at], arrays["reference"][at])
        moved = logprobs[at] - arrays["logprobs"][at]
        terms = {"reference_kl": divergence, "nll": -arrays["nll"][at] * logprobs[at]}
        sign = arrays["kl_cov"][at]  # of a token with a large covariance
        means = {name: means[name] + terms[name] / NORMALIZER for name in means}
        value += weight * (0.3 * entropy[at] + 0.2 * divergence + 0.4 * sign * moved) + 0.05 * terms["nll"]
        slopes[at] = weight * (0.2 * slope + 0.4 * sign) - 0.05 * arrays["nll"][at]
        entropy_slopes[at] = weight * 0.3
    config = config_of(auxiliary__kl_estimator=estimator, **settings)
    wanted = {name: array for name, array in arrays.items() if name in used or name != "aggregation"}
    got, figures, gradient, by_entropy = computed(config, logprobs, entropy, wanted)
    np.testing.assert_allclose(got, value / NORMALIZER, rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes / NORMALIZER, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(by_entropy, entropy_slopes / NORMALIZER, rtol=1e-6)
    for name, mean in means.items():
        np.testing.assert_allclose(figures[name], mean, rtol=1e-5, err_msg=name)


def test_check_values_of_kl():
    logprob, reference = jnp.float32(-1.0), jnp.float32(-1.5)
    estimates = [float(ESTIMATORS[name](logprob, reference)) for name in ("k1", "k2", "k3")]
    np.testing.assert_allclose(estimates, [0.5, 0.125, 0.1065], atol=5e-5)


def test_a_policy_loss_through_the_network_matches_float64_in_chunks():
    """Hidden states and embedding to the loss, with the entropy's gradient, over several rows and chunks."""
    rng = np.random.default_rng(3)
    _, _, arrays = tokens()
    hidden, embedding = rng.normal(size=(*SHAPE, 6)), rng.normal(size=(17, 6))
    targets = rng.integers(0, 17, SHAPE)
    config = config_of(grpo__loss="cispo", auxiliary__entropy=0.5, auxiliary__kl=0.3)
    arrays = {name: array for name, array in arrays.items() if name not in ("weights", "sequence_ratios")}

    def distribution(hidden, embedding):
        logits = hidden @ embedding.T
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        return np.take_along_axis(logits, targets[..., None], -1)[..., 0], -(np.exp(logits) * logits).sum(-1)

    def loss(hidden, embedding):
        details = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), arrays)
        arguments = hidden, embedding, jnp.asarray(targets), details, NORMALIZER
        return token_loss(policy_loss(config), *arguments, chunk=8, entropy_gradient=True)[0]

    inputs = [hidden, embedding]
    gradients = jax.jit(jax.grad(loss, (0, 1)))(*(jnp.asarray(array, jnp.float32) for array in inputs))
    # By logprob and entropy in float32, whose own correctness is above, and then by finite differences in float64.
    logprobs, entropy = distribution(*inputs)
    slopes = computed(config, logprobs, entropy, arrays)[2:]
    by_logprob, by_entropy = (np.asarray(slope, np.float64) for slope in slopes)
    for number, gradient in enumerate(gradients):
        for index in list(np.ndindex(gradient.shape))[::13]:
            moved = [[array.copy() for array in inputs] for _ in range(2)]
            moved[0][number][index] += 1e-5
            moved[1][number][index] -= 1e-5
            (up, up_entropy), (down, down_entropy) = (distribution(*arrays) for arrays in moved)
            wanted = (by_logprob * (up - down) + by_entropy * (up_entropy - down_entropy)).sum() / 2e-5
            np.testing.assert_allclose(gradient[index], wanted, rtol=1e-3, atol=1e-5)


def halved(tokens, settings):
    """A policy loss of one's own, for the next test."""
    loss = -tokens.aggregate_weighted(tokens.ratio * tokens.advantages * tokens.details["sequence_ratios"]) / 2
    return loss, {"own_figure": tokens.mean(tokens.ratio)}


halved.details = ("sequence_ratios",)


def wanting(tokens, settings):
    raise AssertionError("not called")


wanting.details = ("attention",)


def test_a_loss_of_one_s_own_takes_what_it_asks_for():
    logprobs, entropy, arrays = tokens()
    logprobs[0, :4] = arrays["logprobs"][0, :4]
    config = config_of(grpo__loss=f"{__name__}:halved")
    assert details_of(config) == ("sequence_ratios",)
    train, weights = arrays["target_mask"] > 0, arrays["aggregation"] * arrays["weights"] * arrays["sequence_ratios"]
    ratio = np.exp(np.where(train, logprobs - arrays["logprobs"], 0.0))
    value, figures, *_ = computed(config, logprobs, entropy, arrays)
    wanted = -(train * weights * ratio * arrays["advantages"]).sum() / 2 / NORMALIZER
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert "own_figure" in figures and "ratio" not in figures
    with pytest.raises(UserError, match="asks for the detail 'attention'; known: aggregation, weights"):
        check_update_parts(config_of(grpo__loss=f"{__name__}:wanting"))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("grpo.loss", "policy loss"),
        ("grpo.aggregation", "aggregation"),
        ("grpo.correction", "correction"),
        ("auxiliary.kl_estimator", "estimator of KL"),
    ],
)
def test_parts_that_are_not_there_are_named(key, kind):
    with pytest.raises(
        UserError, match=f"config.{key} is 'nonsense': it must be one of .* module:function of your own"
    ):
        config_of(**{key.replace(".", "__"): "nonsense"})
    with pytest.raises(UserError, match=f"{kind} 'no_module:part' cannot be imported"):
        check_update_parts(config_of(**{key.replace(".", "__"): "no_module:part"}))


def test_the_loss_takes_only_what_its_parts_need():
    assert details_of(config_of()) == ()
    named = {
        "grpo__loss": ("gspo", "sequence_ratios"),
        "grpo__aggregation": ("sequence_mean", "aggregation"),
        "grpo__correction": ("tis", "weights"),
        "grpo__entropy_fraction": (0.2, "weights"),
        "auxiliary__kl": (0.1, "reference"),
        "auxiliary__nll": (0.1, "nll"),
        "auxiliary__kl_cov": (1.0, "kl_cov"),
        "auxiliary__clip_cov_fraction": (0.1, "weights"),
    }
    for key, (value, detail) in named.items():
        assert details_of(config_of(**{key: value})) == (detail,)
    assert details_of(config_of(auxiliary__entropy=0.1)) == ()


def test_rounded_weights_are_corrected_for_unless_it_is_said_that_they_are_not(capsys):
    exact, rounded = config_of(), config_of(rollout__weights="int8")
    assert details_of(config_of(rollout__cache_dtype="int8")) == ("weights",)
    assert details_of(config_of(rollout__cache_dtype="bfloat16")) == ()
    off, other = (config_of(rollout__weights="int8", grpo__correction=name) for name in ("none", "mis"))
    assert [details_of(config) for config in (exact, rounded, off, other)] == [(), ("weights",), (), ("weights",)]
    assert [score_passes(config) for config in (exact, rounded, off, other)] == [0, 1, 0, 1]
    told = {"tis": "config.grpo.correction is 'tis', since rollouts round to int8; 'none' leaves it off\n"}
    for config, name in ((exact, "none"), (rounded, "tis"), (off, "none"), (other, "mis")):
        settle_correction(config)
        assert config.grpo.correction == name
        assert capsys.readouterr().err == told.get(name, "")
        settle_correction(config)  # as a run that goes on from a saved config
        assert config.grpo.correction == name and not capsys.readouterr().err
