"""Passes over changed sequences, and what functions of an update see of them and make of its advantages."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from pixel_reasoner_jax.config_values import OPEN
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training import contexts, sft
from pixel_reasoner_jax.training.contexts import CONTEXTS, Change
from pixel_reasoner_jax.training.packing import plan
from pixel_reasoner_jax.training.policy_update import (
    UpdatePasses,
    check_update_parts,
    details_of,
    has_second_tree,
    passes_asked_for,
    score_passes,
)
from pixel_reasoner_jax.training.shaping import capped_bonus, dependency, largest_in_sequences, relative_weights
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.virtual_shards import VirtualShards
from tests.forward import full_logits
from tests.training.test_policy_losses import config_of as with_settings


def config_of(*shaping, passes=None, **settings):
    """Two shards, shapings of this file by their names, and passes by label."""
    config = with_settings(**settings)
    config.data.shards, config.grpo.shaping = 2, tuple(f"{__name__}:{name}" for name in shaping)
    for label, values in (passes or {}).items():
        config.passes[label] = ConfigDict(OPEN["passes"] | values)
    return config


@pytest.fixture(scope="module")
def processor(start):
    return Processor.from_pretrained(start / "model")


@pytest.fixture
def sequences(sequences_of_two_queries):
    return sequences_of_two_queries


class Recording:
    """A trainer whose tokens have their place among the targets as log-probability, and -1 times that as entropy."""

    def __init__(self):
        self.asked = []

    def score(self, params, batches):
        self.asked.append((params, batches))
        values = [
            np.arange(batch["targets"].size, dtype=np.float32).reshape(batch["targets"].shape) for batch in batches
        ]
        return [{"logprobs": one, "entropy": -one} for one in values]


def run_of(config, processor):
    shards = VirtualShards(config, None)
    return types.SimpleNamespace(
        plan=lambda of: {shard: plan(some, processor, rows=2, row_length=300) for shard, some in of.items()},
        agree_on_shapes=lambda plans: shards.agree_on_shapes(plans, processor, 2),
        processor=processor,
        shards=shards,
    )


def prepared(config, trainer, updates, processor, params="now", old="old"):
    """The last of the updates as it is prepared: the batches, figures, and what they were built of."""
    passes, training = UpdatePasses(config, trainer, None), run_of(config, processor)
    passes._reference = lambda _: "reference"
    passes.begin_episode(types.SimpleNamespace(params=old, step=3), updates, training)
    for step, update in enumerate(updates, start=3):
        agreed = training.agree_on_shapes(training.plan(update))
        batches = agreed()
        made, figures = passes.prepare(types.SimpleNamespace(params=params, step=step), agreed, batches)
    return made, figures, agreed, batches


def by_sequence(agreed, batches, name="advantages"):
    """The values of each sequence's tokens, by its id."""
    pairs = agreed.unpack([batch[name] for batch in batches])
    return {id(one): values for of_shard in pairs.values() for one, values in of_shard}


# What a context makes of a sequence.


def test_masked_patches_are_black_and_the_others_as_they_were(processor, sequences):
    change = Change(0.5, processor, (0, 7))
    made = [CONTEXTS["masked"](one, change) for one in sequences]
    for one, other in zip(sequences, made, strict=True):
        assert other.tokens is one.tokens and len(other.media) == len(one.media)
        for before, after in zip(one.media, other.media, strict=True):
            black = (after.pixels == 0).all(axis=(1, 2, 3))
            np.testing.assert_array_equal(after.pixels[~black], before.pixels[~black])
            np.testing.assert_array_equal(after.pixels, after.pixels)  # drawn anew, and the same
            assert after.key is None and before.pixels.any()
    shares = [(item.pixels == 0).all(axis=(1, 2, 3)).mean() for one in made for item in one.media]
    assert 0.3 < np.mean(shares) < 0.7
    # The image of a query is one for its responses, which a batch then has once; another query draws anew.
    assert made[0].media[0] is made[1].media[0] is not made[2].media[0]
    CONTEXTS["masked"](dataclasses.replace(sequences[0], query_id="\ud800"), change)  # whatever data have
    again, later = (CONTEXTS["masked"](sequences[0], Change(0.5, processor, (0, step))) for step in (7, 8))
    np.testing.assert_array_equal(again.media[0].pixels, made[0].media[0].pixels)
    assert (later.media[0].pixels != made[0].media[0].pixels).any()
    for strength, kept in ((0.0, True), (1.0, False)):
        all_or_none = CONTEXTS["masked"](sequences[0], Change(strength, processor)).media[0].pixels
        np.testing.assert_array_equal(all_or_none, sequences[0].media[0].pixels * kept)


def test_noise_has_the_deviation_that_is_said_in_levels(processor, sequences):
    grey = dataclasses.replace(
        sequences[0], media=[dataclasses.replace(m, source=np.full_like(m.pixels, 127)) for m in sequences[0].media]
    )
    values = np.concatenate([m.pixels.ravel() for m in CONTEXTS["noisy"](grey, Change(0.1, processor)).media])
    assert values.dtype == np.uint8
    assert values.astype(float).std() == pytest.approx(25.5, rel=0.05) and abs(values.mean() - 127) < 1
    strong = CONTEXTS["noisy"](grey, Change(10.0, processor)).media[0].pixels
    assert set(np.unique(strong)) >= {0, 255}
    np.testing.assert_array_equal(CONTEXTS["noisy"](grey, Change(0.0, processor)).media[0].pixels, 127)


def test_without_images_the_text_stays_with_all_that_is_known_of_it(processor, sequences):
    one = dataclasses.replace(sequences[0], advantage=np.arange(len(sequences[0].tokens), dtype=np.float32))
    made = CONTEXTS["text_only"](one, Change(0.0, processor))
    vision = (processor.image_pad, processor.video_pad, processor.vision_start, processor.vision_end)
    kept = [place for place, token in enumerate(one.tokens) if token not in vision]
    assert len(kept) < len(one.tokens) and made.media == []
    for name in ("tokens", "train", "advantage", "logprobs", "temperatures"):
        np.testing.assert_array_equal(getattr(made, name), getattr(one, name)[kept])
    positions, _ = processor.positions(made.tokens, [])
    np.testing.assert_array_equal(positions, np.tile(np.arange(len(kept)), (3, 1)))


def one_token_less(sequence, change):
    return contexts.keep_tokens(sequence, np.arange(len(sequence.tokens)) != np.flatnonzero(sequence.train)[-1])


def another_token(sequence, change):
    return dataclasses.replace(sequence, tokens=np.where(sequence.train, 1, sequence.tokens))


def no_sequence(sequence, change):
    return sequence.tokens


def without_temperatures(sequence, change):
    return dataclasses.replace(sequence, temperatures=None)


@pytest.mark.parametrize("name", ["one_token_less", "another_token", "no_sequence", "without_temperatures"])
def test_a_context_that_changes_what_is_trained_is_refused(processor, sequences, name):
    config = config_of("of_the_pass", passes={"other": dict(context=f"{__name__}:{name}")})
    with pytest.raises(UserError, match="the context of config.passes.other must return a packing.Sequence with the"):
        prepared(config, Recording(), [{0: sequences, 1: []}], processor)


def test_pixels_of_another_shape_are_refused(processor, sequences):
    made = Change(0.0, processor).of_pixels(sequences[0], lambda pixels, _: pixels[:1])
    with pytest.raises(UserError, match="a context of config.passes must return pixels as uint8"):
        _ = made.media[0].pixels


# Passes.


def of_the_pass(view, settings):
    return view.logprobs("other") + 1000 * view.entropy("other") * 0


of_the_pass.passes = ("other",)


def unnamed(view, settings):
    return view.logprobs("present")


def looks_at_old(view, settings):
    return view.logprobs("old") + view["advantages"]


looks_at_old.passes = ("old",)


def of_the_config(view, settings):
    return view.logprobs("other")


of_the_config.passes = lambda config: tuple(config.passes)


def test_passes_equal_an_independent_forward_of_the_changed_sequence(start, processor, sequences):
    """By the model's plain forward of each sequence alone, whose images and tokens the test changes by itself."""
    model = Qwen2_5_VL.from_pretrained(start / "model")
    trainer, params = Trainer(model, optax.sgd(1.0), sft._loss), nnx.state(model)
    update = {0: sequences[:3], 1: sequences[3:]}
    for context, strength in (("masked", 0.5), ("text_only", 0.0)):
        config = config_of("of_the_pass", passes={"other": dict(context=context, strength=strength)})
        made, _, agreed, _ = prepared(config, trainer, [update], processor, params=params)
        values = by_sequence(agreed, made)
        change = Change(strength, processor, (0, 3))
        for one in sequences:
            shown = CONTEXTS[context](one, change)
            logits = full_logits(model, processor, shown).astype(np.float64)[:-1] / 0.7
            logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            wanted = logprobs[np.arange(len(logits)), shown.tokens[1:]][shown.train[1:]]
            np.testing.assert_allclose(values[id(one)], wanted, atol=2e-4)


@pytest.mark.parametrize("context", ["masked", "text_only"])
def test_values_of_a_pass_go_to_their_tokens(processor, sequences, context):
    """Batches of changed sequences are planned anew, and one that is there twice has its values twice."""
    config = config_of("of_the_pass", passes={"other": dict(context=context, strength=0.5)})
    trainer, update = Recording(), {0: [sequences[0], sequences[2], sequences[0]], 1: [sequences[1]]}
    made, figures, agreed, before = prepared(config, trainer, [update], processor)
    [(params, scored)] = trainer.asked
    assert params == "now" and len(agreed.sequences()) == 4
    number = np.concatenate([batch["target_mask"].ravel() for batch in scored]).sum()
    assert number == sum(one.targets for one in (*update[0], *update[1]))
    values = by_sequence(agreed, made)
    assert all(np.all(np.diff(of_one) == 1) for of_one in values.values())  # its places, side by side
    changed_pixels = [batch["vision"] for batch in scored]
    assert (context == "text_only") == all(vision is None for vision in changed_pixels)
    assert figures == {}
    np.testing.assert_array_equal(made[0]["logprobs"], before[0]["logprobs"])


def test_a_pass_under_the_policy_that_sampled_is_made_before_the_first_update(processor, sequences):
    config = config_of("of_the_pass", passes={"other": dict(context="masked", strength=0.5, policy="old")})
    trainer = Recording()
    updates = [{0: sequences[:2], 1: []}, {0: sequences[:2], 1: sequences[2:]}]
    made, _, agreed, _ = prepared(config, trainer, updates, processor)
    # Each sequence once: the second update has two that the first has not.
    assert [params for params, _ in trainer.asked] == ["old", "old"]
    assert [sum(batch["target_mask"].sum() for batch in batches) for _, batches in trainer.asked] == [
        sum(one.targets for one in some) for some in (sequences[:2], sequences[2:])
    ]
    assert by_sequence(agreed, made).keys() == {id(one) for one in sequences}


def test_a_pass_that_nobody_asks_for_is_not_made(processor, sequences):
    config = config_of(passes={"other": dict(context="masked", strength=0.5), "more": dict(policy="reference")})
    made, figures, _, before = prepared(config, None, [{0: sequences, 1: []}], processor)
    assert made is before and figures == {} and score_passes(config) == 0 and not has_second_tree(config)
    plain = config_of("constant")
    made, figures, *_ = prepared(plain, None, [{0: sequences, 1: []}], processor)
    assert all((batch["advantages"] == 2 * (batch["target_mask"] > 0)).all() for batch in made) and figures == {}


def constant(view, settings):
    return np.full(len(view["advantages"]), 2.0)


def one_name(view, settings):
    return view.logprobs("other")


one_name.passes = "other"


def test_a_single_name_is_no_list_of_letters():
    config = config_of("one_name", passes={"other": {}})
    assert [one.label for one in passes_asked_for(config)] == ["other"]


def test_who_asks_decides_which_passes_there_are():
    labels = {"masked": dict(context="masked"), "other": dict(policy="reference")}
    config = config_of("of_the_pass", "looks_at_old", passes=labels, auxiliary__kl=0.1)
    assert [one.label for one in passes_asked_for(config)] == ["old", "reference", "other"]
    assert score_passes(config) == 3 and has_second_tree(config)
    assert [one.label for one in passes_asked_for(config_of("of_the_config", passes=labels))] == ["masked", "other"]
    assert has_second_tree(config_of("of_the_pass", passes=labels))
    assert not has_second_tree(config_of("looks_at_old", passes=labels))
    assert not has_second_tree(config_of("of_the_pass", passes=labels, lora__rank=2))
    assert details_of(config) == ("reference",)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(passes={"old": {}}), "config.passes.old: there is always a pass of this label"),
        (dict(), r"shaping '.*:of_the_pass' asks for the pass 'other': config.passes has none; there are 'old', 'pres"),
        (dict(passes={"other": dict(context="no_module:part")}), "context 'no_module:part' cannot be imported"),
    ],
)
def test_passes_that_are_not_there_are_named_before_anything_is_loaded(config, message):
    with pytest.raises(UserError, match=message):
        check_update_parts(config_of("of_the_pass", **config))


def test_a_function_that_does_not_name_its_pass_is_told_how(processor, sequences):
    with pytest.raises(UserError, match=r"the pass 'present' was not made: .*passes = \(\"present\",\)"):
        prepared(config_of("unnamed"), None, [{0: sequences, 1: []}], processor)


def test_passes_are_settings_of_ones_own():
    config = with_settings(passes__blurred__context="noisy", passes__blurred__strength="0.4")
    assert config.passes.blurred.to_dict() == dict(context="noisy", strength=0.4, policy="present", entropy=0.0)
    for key, value, message in [
        ("policy", "new", "config.passes.blurred.policy is 'new': it must be one of 'old', 'present', 'reference'"),
        ("context", "blurred", "config.passes.blurred.context is 'blurred': it must be one of 'as_asked', 'masked'"),
        ("strength", -1, "config.passes.blurred.strength is -1.0: it must be 0 or greater"),
        ("strenth", 1, "unknown key config.passes.blurred.strenth; did you mean config.passes.blurred.strength"),
    ]:
        with pytest.raises(UserError, match=message):
            with_settings(**{f"passes__blurred__{key}": value})
    with pytest.raises(UserError, match="config.grpo.shaping is .*: it must be texts of the form module:function"):
        with_settings(grpo__shaping="('shape',)")


# Shaping.


def halved(view, settings):
    return view["advantages"] / 2


def one_more(view, settings):
    view.figure("own", np.full(len(view.sampled), 3.0))
    return view["advantages"] + 1


def too_few(view, settings):
    return view["advantages"][1:]


def not_finite(view, settings):
    return np.full(len(view["advantages"]), np.inf)


def test_shapings_follow_one_another(processor, sequences):
    made, figures, agreed, _ = prepared(config_of("halved", "one_more"), None, [{0: sequences, 1: []}], processor)
    values = by_sequence(agreed, made)
    for one in sequences:
        np.testing.assert_allclose(values[id(one)], one.advantage / 2 + 1, rtol=1e-6)
    assert figures == {"own": 3.0}
    for batch in made:
        assert not batch["advantages"][batch["target_mask"] == 0].any()


@pytest.mark.parametrize("name", ["too_few", "not_finite"])
def test_a_shaping_that_is_none_is_named(processor, sequences, name):
    with pytest.raises(UserError, match=rf"shaping '.*:{name}' must be a finite number for each of \d+ tokens"):
        prepared(config_of(name), None, [{0: sequences, 1: []}], processor)


def test_what_details_and_other_shapings_see_is_shaped(processor, sequences):
    """GSPO's ratios, by the present pass; covariances would see the advantages as they were shaped."""
    config = config_of("halved", "seen", auxiliary__kl_cov=1.0, auxiliary__kl_cov_fraction=0.5)
    SEEN.clear()
    prepared(config, Recording(), [{0: sequences, 1: []}], processor)
    wanted = np.concatenate([np.full(one.targets, one.advantage / 2) for one in SEEN[0][0]])
    np.testing.assert_allclose(SEEN[0][1], wanted, rtol=1e-6)


SEEN = []


def seen(view, settings):
    SEEN.append((view.sequences, view["advantages"]))
    np.testing.assert_allclose(view.sequence_means(view["advantages"]), [s.advantage / 2 for s in view.sequences])
    np.testing.assert_array_equal(view.gathered(view.lengths), sorted(view.lengths))
    assert view.total(view.lengths) == view.size.tokens and view.is_first
    for sequence, turns in zip(view.sequences, np.split(view.turns, np.cumsum(view.lengths)[:-1]), strict=True):
        begins = np.flatnonzero(np.diff(sequence.train.astype(int)) == 1)
        where = np.flatnonzero(sequence.train)
        np.testing.assert_array_equal(turns, [(begins < place).sum() - 1 for place in where])
    return view["advantages"]


def test_check_values_of_vppo():
    assert dependency(np.array([-3.0], np.float32), np.array([-1.0], np.float32)) == pytest.approx(1.1353, abs=5e-5)
    d = dependency(np.array([0.0, -100.0, 5.0]), np.array([-100.0, 0.0, 5.0]))
    np.testing.assert_allclose(d, [10.0, 10.0, 0.0])  # exp(20) - 21, and exp(-20) + 19
    means = np.array([0.1, 0.2, 0.4])
    np.testing.assert_allclose(relative_weights(means, means, 0.9), [0.9, 0.975, 1.125], rtol=1e-6)
    np.testing.assert_allclose(relative_weights(means[:2], means, 0.9), [0.9, 0.975], rtol=1e-6)
    np.testing.assert_array_equal(relative_weights(means[:1], means[:1], 0.9), [1.0])
    assert relative_weights(means[:0], means[:0], 0.9).shape == (0,)


def test_a_bonus_is_capped_by_the_advantage():
    values, advantages = np.array([0.1, 0.1, 5.0, 5.0, 3.0]), np.array([1.0, 0.1, -2.0, 4.0, 0.0])
    np.testing.assert_allclose(capped_bonus(values, advantages, 0.4, 2.0), [0.04, 0.04, 1.0, 2.0, 0.0])


def test_the_largest_of_each_sequence_are_a_share_rounded_up():
    values = np.array([1.0, 3.0, 2.0, 0.0, 5.0, 7.0, 7.0, 7.0])
    kept = largest_in_sequences(values, np.array([5, 0, 1, 2]), 0.4)
    np.testing.assert_array_equal(kept, [False, True, False, False, True, True, True, False])
    assert largest_in_sequences(values[:0], np.array([], int), 0.4).shape == (0,)
