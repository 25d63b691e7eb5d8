"""Phase two, curiosity-driven GRPO: roll out an episode of queries, judge the responses, update the policy, again."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.pipeline import query_batches, record_count
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.parallel import gather
from pixel_reasoner_jax.rewards import AnswerPool
from pixel_reasoner_jax.rollout import Policy, SamplingSettings, check_query
from pixel_reasoner_jax.training.grpo import collect, judge
from pixel_reasoner_jax.training.losses import grpo_loss
from pixel_reasoner_jax.training.optimizer import learning_rate_schedule, make_optimizer
from pixel_reasoner_jax.training.rows import cut
from pixel_reasoner_jax.training.run import Run, data_sets
from pixel_reasoner_jax.training.state import Trainer


def run(config: ConfigDict, resume: bool = False) -> pathlib.Path:
    """Trains on the queries in `config.data.path`; configs/rl_qwen2_5_vl_7b.py documents every key.

    Args:
      config: an RL experiment.
      resume: go on from the last checkpoint in `config.workdir`.

    Returns:
      The directory of the trained model, in the Hugging Face form.
    """
    train, rollout, grpo = config.train, config.rollout, config.grpo
    check_lengths(config)
    data = data_sets(config)
    queries = record_count(data) * train.epochs
    updates_per_episode = -(-grpo.queries_per_episode * rollout.samples // train.batch_size)
    # Planned updates: those for which an episode leaves too little to learn from are not made, but count.
    steps = train.steps or queries // grpo.queries_per_episode * updates_per_episode
    episodes = -(-steps // updates_per_episode)
    if not steps:
        raise ConfigError(
            f"{queries} queries of {data} in config.train.epochs do not fill an episode:"
            f" config.grpo.queries_per_episode is {grpo.queries_per_episode}"
        )
    with contextlib.ExitStack() as stack:
        this, pool = stack.enter_context(Run(config, resume)), stack.enter_context(AnswerPool())
        queries = this.shards.share
        settings = LoaderSettings(max_unreadable=config.data.max_unreadable)
        batches = stack.enter_context(
            query_batches(data, queries, order=this.order, settings=settings, pass_rates=config.data.pass_rates)
        )
        policy = Policy(
            this.model,
            this.processor,
            registry=this.settings.registry(),
            limits=this.settings.limits,
            guidelines=this.settings.guidelines,
            slots=rollout.slots,
            gather_parameters=rollout.gather_parameters,
        )
        sampling = SamplingSettings(rollout.temperature, later=SamplingSettings(rollout.later_temperature))
        forbidden = np.zeros(this.model.config.vocab_size, bool)
        forbidden[this.processor.forbidden_tokens] = True
        trainer = make_trainer(config, this.model, forbidden)
        learning_rate = learning_rate_schedule(config.optimizer, steps)
        state, counters = this.restore(trainer.init(), batches)
        done = counters.get("episode", 0)
        with this.progress("rl", episodes, done) as progress:
            for episode in range(done + 1, episodes + 1):
                policy.params = state.params
                with this.phase("data"):
                    some = [query for own in next(batches).values() for query in own]
                    for query in some:
                        check_query(query, scored=True)
                with this.phase("rollout"):  # rewards are computed meanwhile
                    seed = _episode_seed(config.seed, episode)
                    with policy.stream(some, rollout.samples, seed, sampling=sampling) as stream:
                        groups, correct = collect(stream, len(some), rollout.samples, pool)
                judged = judge(groups, correct, config.curiosity, grpo.normalize_std)
                metrics = []
                groups_of = {shard: slice(i * queries, (i + 1) * queries) for i, shard in enumerate(this.shards.own)}
                sequences = {shard: judged.sequences(groups) for shard, groups in groups_of.items()}
                total = int(gather(np.int32(sum(map(len, sequences.values())))).sum())
                updates = -(-total // train.batch_size)
                planned = range((episode - 1) * updates_per_episode, steps)
                # Each shard gives what it has evenly to all updates.
                runs = {shard: cut([len(s.tokens) for s in own], updates) for shard, own in sequences.items()}
                for step, update in zip(planned, range(updates), strict=False):
                    with this.phase("pack"):
                        parts = {shard: own[runs[shard][update]] for shard, own in sequences.items()}
                        packed = this.agree(this.plan(parts))()
                    with this.phase("update"):
                        state, update_metrics = trainer.update(state, packed, learning_rate(step))
                    metrics.append(update_metrics)
                figures = judged.metrics()
                this.write(
                    episode,
                    {**figures, "updates": len(metrics), **_summary(metrics), "skipped_records": batches.skipped},
                )
                progress.update(episode, accuracy=figures["accuracy"], rapr=figures["rapr"], reward=figures["reward"])
                if episode % train.checkpoint_every == 0 or episode == episodes:
                    this.save(episode, state, batches, episode=episode)
        return this.export(state.params)


def check_lengths(config: ConfigDict) -> None:
    """Refuses responses that no packed row has room for.

    Raises:
      ConfigError: names both settings.
    """
    longest, row = config.rollout.max_length, config.train.row_length
    if longest > row:
        raise ConfigError(
            f"config.rollout.max_length is {longest}: such a response does not fit into a row of"
            f" config.train.row_length = {row} tokens"
        )


def make_trainer(config: ConfigDict, model: Any, forbidden: np.ndarray) -> Trainer:
    """The trainer of an RL experiment.

    Args:
      config: see `run`.
      model: see `Trainer`.
      forbidden: bool [vocab], tokens that the rollouts did not draw from.
    """
    return Trainer(
        model,
        make_optimizer(config.optimizer),
        functools.partial(_loss, clip_low=config.grpo.clip_low, clip_high=config.grpo.clip_high),
        forbidden=forbidden,
        freeze_vision=config.train.freeze_vision,
        master_weights=config.optimizer.master_weights,
    )


def _loss(logprobs, entropy, details, normalizer, *, clip_low: float, clip_high: float):
    return grpo_loss(
        logprobs,
        details["logprobs"],
        details["advantages"],
        details["target_mask"] > 0,
        normalizer,
        clip_low=clip_low,
        clip_high=clip_high,
        entropy=entropy,
    )


def _episode_seed(seed: int, episode: int) -> int:
    """A query that comes again in a later epoch is answered anew."""
    return int(np.random.default_rng((seed, episode)).integers(2**31))


def _summary(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Means over the updates of an episode; tokens are summed.

    Sampler and trainer are compared before the first update alone: after it they are two policies.
    """
    if not metrics:
        return {}
    means = {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}
    return {
        **means,
        "tokens": sum(m["tokens"] for m in metrics),
        "logprob_difference": metrics[0]["logprob_difference"],
    }
