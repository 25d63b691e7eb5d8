"""Updates and episodes that leave nothing to learn, and what takes their place."""

import dataclasses
import itertools
import pathlib

import numpy as np
import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.training import replay, rl, rl_episode, sft
from pixel_reasoner_jax.training.state import Trainer
from tests.training.interruption import interrupted


def test_the_run_goes_on_where_an_episode_leaves_nothing_to_learn(rl_config, luck_pays, monkeypatch):
    """Two updates an episode, five in all; the second episode has none, and the last one stops halfway."""
    reward, episodes = rl_episode.reward_groups, itertools.count(1)

    def second_is_uniform(groups, *settings):
        rewarded = reward(groups, *settings)
        if next(episodes) != 2:
            return rewarded
        return dataclasses.replace(rewarded, trained=np.zeros_like(rewarded.trained))

    monkeypatch.setattr(rl_episode, "reward_groups", second_is_uniform)
    rl_config.train.update(dict(batch_size=4, steps=5))
    rl_config.optimizer.update(dict(learning_rate=1e-2, schedule="linear", warmup_fraction=0.0))
    lines = read_metrics(rl.run(rl_config).parent)
    assert [line["updates"] for line in lines] == [2, 0, 1]
    assert [line["skipped_updates"] for line in lines] == [0, 2, 2] and lines[1]["planned_updates"] == 2
    # The schedule waits: the last update is the third.
    assert [line.get("learning_rate") for line in lines] == [pytest.approx(0.9e-2), None, pytest.approx(0.6e-2)]
    # The second update of an episode meets another policy than the one that sampled.
    assert lines[0]["logprob_difference"] < 1e-4 < lines[0]["kl"]


@pytest.mark.parametrize("method, updates, replayed", [("none", 1, 0.0), ("paper", 2, 0.5)])
def test_replay_keeps_the_planned_updates(rl_config, luck_pays, monkeypatch, method, updates, replayed):
    """Two are planned, of four responses; four have an advantage. The updates are not computed here."""
    collect, trained = rl_episode.collect, []

    def pays_once(*arguments):
        found = collect(*arguments)
        return found._replace(correct=np.stack([found.correct[0], np.zeros_like(found.correct[1])]))

    def update(self, state, batches, learning_rate):
        trained.append(sum(len(np.unique(row)) - 1 for batch in batches for row in batch["segment_ids"]))
        return dataclasses.replace(state, step=state.step + 1), {"tokens": 1.0, "logprob_difference": 0.0}

    monkeypatch.setattr(rl_episode, "collect", pays_once)
    monkeypatch.setattr(Trainer, "update", update)
    rl_config.train.update(dict(batch_size=4, steps=2))
    rl_config.replay.method = method
    [line] = read_metrics(rl.run(rl_config).parent)
    assert trained == [4] * updates
    assert (line["planned_updates"], line["updates"], line["replayed"]) == (2, updates, replayed)
    assert line["uniform_groups"] == 0.5


def test_more_queries_are_asked_in_place_of_those_that_teach_nothing(rl_config, luck_pays, monkeypatch):
    """An episode has two queries: in the first one, the third and the fourth pay."""
    collect, asked = rl_episode.collect, []

    def pays_later(*arguments):
        found = collect(*arguments)
        asked.append([group[0].query_id for group in found.groups])
        return found._replace(correct=np.zeros_like(found.correct)) if len(asked) == 1 else found

    def update(self, state, batches, learning_rate):
        return dataclasses.replace(state, step=state.step + 1), {"tokens": 1.0, "logprob_difference": 0.0}

    monkeypatch.setattr(rl_episode, "collect", pays_later)
    monkeypatch.setattr(Trainer, "update", update)
    rl_config.train.update(dict(batch_size=4, steps=4))
    rl_config.replay.method, rl_config.grpo.sampling_rounds = "none", 3
    lines = read_metrics(rl.run(rl_config).parent)
    figures = [(line["sampling_rounds"], line["updates"], line["uniform_groups"]) for line in lines]
    assert figures == [(2, 2, 0.5), (1, 2, 0)]
    assert len({query for queries in asked for query in queries}) == 6


def test_a_run_that_never_made_an_update_is_an_error_and_exports_nothing(sft_config, rl_config, monkeypatch, caplog):
    """Here nothing is computed that could be learnt."""
    figures = dict(failed_queries=0, truncated=1.0, masked=0.0, answers_unchecked=0, updates=0, skipped_updates=0)
    monkeypatch.setattr(Trainer, "update", lambda self, state, *_: (state, {}))

    def run_episode(learner, episode, read_queries, *states):
        read_queries()
        return *states, figures | {"accuracy": (episode - 1) / 8}

    monkeypatch.setattr(rl, "run_episode", run_episode)
    for run, config in ((sft.run, sft_config), (rl.run, rl_config)):
        config.train.steps, config.workdir = 2, f"{config.workdir}_{run.__module__}"
        for resume in (False, True):
            with pytest.raises(UserError, match="no update was made, so there is no trained model, and none is writ"):
                run(config, resume)
        assert not (pathlib.Path(config.workdir) / "model").exists()
    reasons = [message for message in caplog.messages if message.startswith("episode ")]
    assert [reason.partition(": ")[0] for reason in reasons] == [f"episode {n} made no update" for n in (1, 2)]
    assert "equal rewards (accuracy 0)" in reasons[0] and "every response met a limit before its answer" in reasons[0]
    assert reasons[1] == "episode 2 made no update: as before"  # though its accuracy is another


def test_a_run_whose_prompts_leave_no_room_exports_nothing(rl_config):
    rl_config.rollout.max_length = 40
    with pytest.raises(UserError, match="leaves no room for a response within rollout.max_length = 40"):
        rl.run(rl_config)
    assert not (pathlib.Path(rl_config.workdir) / "model").exists()


def test_an_sft_update_with_nothing_to_train_on_is_skipped_and_counted(sft_config, monkeypatch):
    """All loss masks of the second batch are empty. The other updates are not computed here."""
    update, numbers = Trainer.update, itertools.count(1)

    def second_is_masked(self, state, batches, learning_rate):
        if next(numbers) == 2:
            batches = [{**batch, "target_mask": np.zeros_like(batch["target_mask"])} for batch in batches]
            return update(self, state, batches, learning_rate)
        return dataclasses.replace(state, step=state.step + 1), {"loss": 0.5}

    monkeypatch.setattr(Trainer, "update", second_is_masked)
    interrupted(monkeypatch, sft.run, sft_config, after=3)  # the checkpoint is step 2's, of one update
    lines = read_metrics(sft.run(sft_config, resume=True).parent)
    assert [(line["step"], line["skipped_updates"]) for line in lines] == [(1, 0), (2, 1), (3, 1), (4, 1)]
    assert ["loss" in line for line in lines] == [True, False, True, True]


@pytest.mark.slow
def test_an_rl_update_without_responses_is_skipped_and_counted(rl_config, luck_pays, monkeypatch):
    """Two updates an episode; where one response has most of the tokens, a share of them has no response in it."""

    def all_in_the_first(lengths, count):
        return [slice(0, len(lengths)), *[slice(0, 0)] * (count - 1)]

    monkeypatch.setattr(replay, "split_by_tokens", all_in_the_first)
    rl_config.replay.method = "none"
    rl_config.train.update(dict(batch_size=4, steps=4))
    lines = read_metrics(rl.run(rl_config).parent)
    assert [(line["updates"], line["skipped_updates"]) for line in lines] == [(1, 1), (1, 2)]
