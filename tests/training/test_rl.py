"""How many updates a run plans, worked by hand."""

from __future__ import annotations

import contextlib
import types

import pytest

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.training import rl
from pixel_reasoner_jax.training.policy_update import UpdatePasses
from pixel_reasoner_jax.training.rl import UpdateSchedule


def schedule(records: int, **settings) -> UpdateSchedule:
    """That of the paper's settings, 512 queries of 8 samples an episode and 256 responses an update, with changes."""
    overrides = [(key.replace("__", "."), str(value)) for key, value in settings.items()]
    return UpdateSchedule.of(load_config("rl_qwen2_5_vl_7b", overrides), records, "data")


def test_full_episodes_alone_are_planned():
    planned = schedule(15_000)
    assert (planned.updates_per_episode, planned.steps, planned.episodes) == (16, 29 * 16, 29)
    assert planned.steps_of(1) == range(0, 16) and planned.steps_of(29) == range(448, 464)
    assert schedule(15_000, train__epochs=2).episodes == 58
    assert schedule(1_024, train__batch_size=3_000).steps_of(2) == range(2, 4)  # the second of 1,096 responses


def test_steps_given_end_the_last_episode_early():
    planned = schedule(15_000, train__steps=20)
    assert planned.episodes == 2 and planned.steps_of(2) == range(16, 20)


def test_too_few_queries_are_named():
    with pytest.raises(ConfigError, match="511 queries of data .*grpo.queries_per_episode is 512"):
        schedule(511)


def test_an_update_that_no_response_is_left_for_counts_as_skipped(monkeypatch):
    """The second of three: one long response can have more than its share of the tokens."""
    rewarded = types.SimpleNamespace(metrics=lambda: {"accuracy": 0.5}, failed_queries=0)
    monkeypatch.setattr(rl, "collect", lambda *_: ([], []))
    monkeypatch.setattr(rl, "reward_groups", lambda *_: rewarded)
    monkeypatch.setattr(rl, "_split_into_updates", lambda *_: [["a"], [], ["b"]])
    training = types.SimpleNamespace(
        phase=lambda _: contextlib.nullcontext(),
        plan=list,
        agree_on_shapes=lambda plan: lambda: plan,
        has_saved=lambda _: True,
    )
    figures = {"tokens": 5.0, "logprob_difference": 0.0}
    trainer = types.SimpleNamespace(update=lambda state, batches, rate: (state, figures if batches else {}))
    policy = types.SimpleNamespace(stream=lambda *_, **__: contextlib.nullcontext())
    config = load_config("rl_qwen2_5_vl_7b")
    learner = rl.Learner(
        config=config,
        training=training,
        policy=policy,
        pool=types.SimpleNamespace(unchecked=0),
        trainer=trainer,
        passes=UpdatePasses(config, trainer, model=None),
        schedule=UpdateSchedule(6, 3),
        sampling=None,
        learning_rate=float,
        stop=types.SimpleNamespace(asked=None, agreed=lambda: False),
    )
    _, metrics = rl.run_episode(learner, 2, [], types.SimpleNamespace(params=None))
    assert (metrics["updates"], metrics["skipped_updates"], metrics["tokens"]) == (2, 1, 10.0)
