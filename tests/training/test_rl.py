"""How many updates a run plans, worked by hand."""

from __future__ import annotations

import contextlib
import types

import numpy as np
import pytest

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.subgroups import Subgroups
from pixel_reasoner_jax.training import rl_episode
from pixel_reasoner_jax.training.collecting import Collected
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.policy_update import UpdatePasses
from pixel_reasoner_jax.training.update_schedule import UpdateSchedule


def schedule(records: int, **settings) -> UpdateSchedule:
    """That of the paper's settings, 512 queries of 8 samples an episode and 256 responses an update, with changes."""
    overrides = [(key.replace("__", "."), str(value)) for key, value in settings.items()]
    return UpdateSchedule.of(load_config("rl_qwen2_5_vl_7b", overrides), records, "data")


def test_full_episodes_alone_are_planned():
    planned = schedule(15_000)
    assert (planned.updates_per_episode, planned.steps, planned.episodes) == (16, 29 * 16, 29)
    assert [planned.planned(episode) for episode in (1, 29, 30)] == [16, 16, 0]
    assert schedule(15_000, train__epochs=2).episodes == 58
    assert schedule(1_024, train__batch_size=3_000).planned(2) == 2  # the second of 1,096 responses
    assert schedule(15_000, replay__method="release").steps == 29 * 8


def test_steps_given_end_the_last_episode_early():
    planned = schedule(15_000, train__steps=20)
    assert planned.episodes == 2 and planned.planned(2) == 4


def test_too_few_queries_are_named():
    with pytest.raises(ConfigError, match="511 queries of data .*grpo.queries_per_episode is 512"):
        schedule(511)


def test_an_update_without_trained_tokens_counts_as_skipped_and_the_schedule_waits(monkeypatch):
    """The second of three."""
    rewarded = types.SimpleNamespace(
        groups=[],
        metrics=lambda: {"accuracy": 0.5},
        failed_queries=0,
        informative=lambda: 512,
        curiosity=CuriosityState(0.5, 0.05, {"all": 0.25}),
        rate=0.25,
    )
    nothing = Collected([], [], np.zeros((0, 8)), np.zeros((0, 8), bool))
    monkeypatch.setattr(rl_episode, "collect", lambda *_: nothing)
    monkeypatch.setattr(rl_episode, "reward_groups", lambda *_: rewarded)
    monkeypatch.setattr(rl_episode, "_choose_updates", lambda *_: ([["a"], [], ["b"]], 0.25))
    training = types.SimpleNamespace(
        phase=lambda _: contextlib.nullcontext(),
        plan=list,
        agree_on_shapes=lambda plan: lambda: plan,
        has_saved=lambda _: True,
        shards=types.SimpleNamespace(local=[0], share=512),
    )

    released = []

    def update(state, batches, rate):
        assert released  # the memory that the rollout took, the update has
        figures = {"tokens": 5.0, "logprob_difference": 0.0, "learning_rate": rate}
        return (types.SimpleNamespace(step=state.step + 1), figures) if batches else (state, {})

    policy = types.SimpleNamespace(
        stream=lambda *_, **__: contextlib.nullcontext(()),
        release=lambda: released.append(True),
        counters=Counters(),
        processor=None,
    )
    config = load_config("rl_qwen2_5_vl_7b", [("train.log_samples", "0")])
    trainer = types.SimpleNamespace(update=update)
    learner = rl_episode.Learner(
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
        show=lambda text: None,
        subgroups=Subgroups.of(config.rollout),
    )
    state = types.SimpleNamespace(params=None, step=3)
    state, curiosity, metrics = rl_episode.run_episode(learner, 2, list, state, CuriosityState(0.5, 0.05))
    assert policy.policy_version == 3  # which trajectories carry
    assert (metrics["updates"], metrics["skipped_updates"], metrics["tokens"]) == (2, 1, 10.0)
    assert (state.step, metrics["learning_rate"]) == (5, 3.5)
    assert (metrics["alpha"], metrics["rate_all"], metrics["replayed"]) == (0.5, 0.25, 0.25)
    assert curiosity == rewarded.curiosity and metrics["sampling_rounds"] == 1
