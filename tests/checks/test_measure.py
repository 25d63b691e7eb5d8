"""A sound program passes every check, and each check finds the faults that it is for."""

import dataclasses

import numpy as np
import optax
import pytest

from pixel_reasoner_jax.checks.measure import compare, roll_out
from pixel_reasoner_jax.checks.queries import built_in_queries
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import make_registry
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout import Policy
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.training import virtual_shards
from pixel_reasoner_jax.training.losses import sft_loss
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.trajectory import Source
from tests.checks.conftest import TURN_TOKENS


def failed(findings):
    return {finding.name for finding in findings if finding.passed is False}


def again(policy):
    return roll_out(policy, built_in_queries(), 1, turn_tokens=TURN_TOKENS)


def test_a_sound_program_passes(checked, trainer, sampled):
    findings = {finding.name: finding for finding in compare(checked, trainer, sampled)}
    assert list(findings) == ["coverage", "renderer", "positions", "masks", "agreement"]
    assert all(finding.passed and not finding.problems for finding in findings.values())
    assert findings["coverage"].figures["operations"] == 12 and len(sampled) == 6
    assert {len(t.media) for t in sampled} == {3, 5, 4}  # two crops; frames and a crop of one
    later = {float(t.temperatures[t.source == Source.SAMPLED][-1]) for t in sampled}
    assert later == {np.float32(0.9)}
    assert findings["agreement"].figures["logprob_difference_after_image_max"] < 1e-4
    assert findings["positions"].figures["largest"] > max(len(t.tokens) for t in sampled if len(t.media) == 4) / 4
    assert checked.limits.max_operations == 4  # as it was


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda batch: batch["targets"].__iadd__(1), {"masks", "agreement"}),
        (lambda batch: batch["target_mask"].__setitem__((0, 0), 0), {"masks"}),
        (lambda batch: batch["temperatures"].fill(1), {"masks", "agreement"}),
        (lambda batch: batch["logprobs"].__iadd__(1), {"masks"}),
        (lambda batch: batch["segment_ids"].clip(0, 1, out=batch["segment_ids"]), {"masks", "agreement"}),
        (lambda batch: batch["positions"][0].__iadd__(1), {"positions"}),  # only their differences count
        (lambda batch: batch["positions"].__imul__(2), {"positions", "agreement"}),
        (lambda batch: batch["vision_index"].__setitem__(batch["vision_index"] == 0, 5), {"agreement"}),
    ],
)
def test_faults_of_the_trainers_batches(change, found, checked, trainer, sampled, monkeypatch):
    build = virtual_shards.build

    def faulty(*arguments):
        batch = build(*arguments)
        change(batch)
        return batch

    monkeypatch.setattr(virtual_shards, "build", faulty)
    assert failed(compare(checked, trainer, sampled)) == found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (lambda t: {"train": np.roll(t.train, 1)}, {"masks", "agreement"}),
        (lambda t: {"train": t.train & (np.cumsum(t.source == Source.OBSERVATION) == 0)}, {"masks", "agreement"}),
        (lambda t: {"temperatures": np.ones_like(t.temperatures)}, {"agreement"}),  # it was sampled at another
        (lambda t: {"messages": t.messages[:2] + [t.messages[4], t.messages[3], t.messages[2], *t.messages[5:]]},
         {"renderer"}),
        (lambda t: {"source": np.where(t.source == Source.OBSERVATION, Source.PROMPT, t.source)}, {"renderer"}),
    ],
)  # fmt: skip
def test_faults_of_trajectories(fields, found, checked, trainer, sampled):
    wrong = [dataclasses.replace(trajectory, **fields(trajectory)) for trajectory in sampled]
    assert failed(compare(checked, trainer, wrong)) >= found


def test_log_probabilities_that_are_no_numbers(checked, trainer, sampled):
    """They are the model's fault, and not that of what carries them to the trainer."""
    broken = [dataclasses.replace(t, logprobs=np.full_like(t.logprobs, np.nan)) for t in sampled]
    findings = compare(checked, trainer, broken)
    assert failed(findings) == {"agreement"}
    assert findings[4].problems[0].endswith("is not a number: look for NaN and infinity in the weights")


def test_a_rule_of_positions_that_both_sides_have_wrong(checked, trainer, monkeypatch):
    """They agree with each other, and not with the rule that the model was trained by."""
    right = Processor.positions
    monkeypatch.setattr(Processor, "positions", lambda self, *given: right(_of_rule(self, "transformers"), *given))
    findings = compare(checked, trainer, again(checked))
    assert failed(findings) == {"positions"}
    (problem,) = findings[2].problems[:1]
    assert problem.startswith("'video', sample 0: the processor's position of token") and "'released'" in problem


def _of_rule(processor, rule):
    copy = object.__new__(Processor)
    copy.__dict__.update(processor.__dict__ | {"position_rule": rule})
    return copy


def test_positions_of_the_rollout_that_go_wrong_after_an_image(checked, trainer, monkeypatch):
    right = Processor.positions

    def late(self, tokens, media, start=0):
        return right(self, tokens, media, start + (7 if start else 0))

    monkeypatch.setattr(Processor, "positions", late)
    findings = compare(checked, trainer, again(checked))
    assert failed(findings) == {"agreement"}
    assert findings[4].figures["logprob_difference_text_max"] < 1e-4
    assert [problem.partition(":")[0] for problem in findings[4].problems] == ["after image"]


def test_a_rollout_that_samples_at_another_temperature_than_it_says(checked, trainer, monkeypatch):
    finished = Episode.trajectory

    def says_one(self):
        trajectory = finished(self)
        return dataclasses.replace(trajectory, temperatures=np.ones_like(trajectory.temperatures))

    monkeypatch.setattr(Episode, "trajectory", says_one)
    assert failed(compare(checked, trainer, again(checked))) == {"agreement"}


@pytest.mark.slow
def test_a_trainer_that_draws_what_the_rollout_may_not(checked, sampled, trainer):
    everything = Trainer(trainer._model, optax.identity(), sft_loss)
    assert failed(compare(checked, everything, sampled)) == {"agreement"}


def test_a_renderer_that_changes_what_it_has_rendered(checked, trainer, sampled, monkeypatch):
    """As templates do that drop the reasoning of earlier turns."""
    right = Processor.render

    def forgetful(self, messages, **options):
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        return right(self, [m for number, m in enumerate(messages) if number not in turns[:-1]], **options)

    monkeypatch.setattr(Processor, "render", forgetful)
    findings = compare(checked, trainer, sampled)
    assert failed(findings) == {"renderer"} and "append-only" in " ".join(findings[1].problems)


def test_what_is_not_covered_does_not_pass(checked, trainer, sampled):
    before = [dataclasses.replace(t, source=np.minimum(t.source, Source.SAMPLED)) for t in sampled]
    assert "coverage" in failed(compare(checked, trainer, before))


@pytest.mark.slow
def test_a_policy_without_operations_has_no_images_of_them(world, trainer):
    text_only = Policy(*world, slots=4, decode_steps=8, text_only=True)
    query = {"id": "1", "question": "?", "images": built_in_queries()[0]["images"]}
    assert not failed(compare(text_only, trainer, roll_out(text_only, [query], 1, turn_tokens=4)))


@pytest.mark.slow
@pytest.mark.parametrize("syntax", ["action", "labelled"])
def test_rollout_and_trainer_agree_after_what_other_operations_return(world, trainer, syntax):
    names = ("frame_at_time", "rotate_image", "zoom_image", "draw_boxes")
    policy = Policy(*world, registry=make_registry(names, syntax), slots=4, decode_steps=8)
    trajectories = roll_out(policy, built_in_queries(), 2, turn_tokens=TURN_TOKENS)
    assert sum(record.succeeded for t in trajectories for record in t.operations) == 12
    assert not failed(compare(policy, trainer, trajectories))
    kinds = {item["kind"] for t in trajectories for m in t.messages[2:] for item in m["content"] if "kind" in item}
    assert kinds == {"image", "crop", "frame"}


def test_queries_that_cannot_be_asked(checked, caplog):
    bad = {"id": "bad", "question": "?", "images": [b"no image"]}
    with pytest.raises(UserError, match="none of the 1 queries can be asked; the last: query 'bad'"):
        roll_out(checked, [bad], 1)
    good = {"id": "good", "question": "?"}  # no medium, and so none to look at more closely
    (only,) = roll_out(checked, [bad, good], 1, turn_tokens=2)
    assert only.query_id == "good" and not any(record.succeeded for record in only.operations)
    assert "left out: query 'bad'" in caplog.text
