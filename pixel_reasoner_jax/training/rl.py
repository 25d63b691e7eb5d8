"""Phase two, curiosity-driven GRPO, as in section 4 of the paper (arXiv 2505.15966).

for every episode of queries:
    the behaviour policy takes the trained parameters
    roll out G responses to every query, and score their answers
    reward = correctness + curiosity bonus - penalty for operations
    advantage = reward - mean of the query's group; groups whose rewards are all alike are dropped
    for every update: what its loss needs besides (see `policy_update`), and one step of the optimizer on its share of
    the responses
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.pipeline import query_batches, record_count
from data_pipeline.reader import QueryReader
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.parallel import all_gather, is_main
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rewards import AnswerPool
from pixel_reasoner_jax.rollout import Policy, Query, SamplingSettings
from pixel_reasoner_jax.rollout.scheduler import RolloutStopped
from pixel_reasoner_jax.training.grpo import RewardedGroups, collect, reward_groups, why_no_update
from pixel_reasoner_jax.training.losses import policy_loss
from pixel_reasoner_jax.training.optimizer import learning_rate_schedule, make_optimizer
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.policy_update import UpdatePasses, check_parts, details_of
from pixel_reasoner_jax.training.rows import split_by_tokens
from pixel_reasoner_jax.training.state import Trainer, TrainState
from pixel_reasoner_jax.training.stopping import StopRequest
from pixel_reasoner_jax.training.training_run import TrainingRun, data_sets

SHOWN = ("accuracy", "rapr", "reward")  # beside the progress

_log = logging.getLogger(__name__)


def run(config: ConfigDict, resume: bool | int = False) -> pathlib.Path:
    """Trains on the queries in `config.data.path`; configs/rl_qwen2_5_vl_7b.py documents every key.

    Args:
      config: an RL experiment.
      resume: go on from the newest whole checkpoint in `config.workdir`, or from that of a step.

    Returns:
      The directory of the trained model, in the Hugging Face form.

    Raises:
      ConfigError: settings that do not go together.
      UserError: no update was made, and so no model is written; the message says why.
      RunStopped: SIGTERM has come. The running episode is begun anew when the run goes on, from the parameters that it
        began with; where these are gone and were not saved, its updates are made first, and it is saved.
    """
    check_lengths(config)
    check_parts(config)
    data = data_sets(config)
    schedule = UpdateSchedule.of(config, record_count(data, config.data.pass_rates), str(data))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        training = stack.enter_context(TrainingRun(config, resume))
        pool = stack.enter_context(AnswerPool(rules=config.rewards.rules))
        policy = make_policy(config, training)
        loader = stack.enter_context(
            query_batches(
                data,
                training.shards.share,
                order=training.order,
                settings=LoaderSettings(max_unreadable=config.data.max_unreadable),
                pass_rates=config.data.pass_rates,
                reader=make_reader(config, policy),
            )
        )
        forbidden = np.zeros(training.model.config.vocab_size, bool)
        forbidden[training.processor.forbidden_tokens] = True
        trainer = make_trainer(config, training.model, forbidden)
        passes = UpdatePasses(config, trainer, training.model)
        sampling = SamplingSettings(
            config.rollout.temperature, later=SamplingSettings(config.rollout.later_temperature)
        )
        learning_rate = learning_rate_schedule(config.optimizer, schedule.steps)
        learner = Learner(config, training, policy, pool, trainer, passes, schedule, sampling, learning_rate, stop)
        state, counters = training.restore(trainer.init(), loader)
        done, skipped = counters.get("episode", 0), counters.get("skipped_updates", 0)
        reason = ""
        stop.begin()
        with training.progress("rl", schedule.episodes, done) as progress:
            for episode in range(done + 1, schedule.episodes + 1):
                position = loader.get_state()
                with training.phase("data"):
                    shards = next(loader).values()
                    queries = [query for shard in shards for query in shard]
                try:
                    state, metrics = run_episode(learner, episode, queries, state)
                except EpisodeDropped:
                    if episode > 1 and not training.has_saved(episode - 1):
                        training.save(episode - 1, state, position, episode=episode - 1, skipped_updates=skipped)
                    training.end_early()
                skipped += metrics.pop("skipped_updates")
                training.write(episode, {**metrics, "skipped_records": loader.skipped, "skipped_updates": skipped})
                progress.update(episode, **{name: metrics[name] for name in SHOWN if name in metrics})
                if not metrics["updates"]:
                    reason = why_no_update(metrics, config)
                    if is_main():
                        _log.warning("episode %d made no update: %s", episode, reason)
                stopping = stop.agreed()
                if episode % config.train.checkpoint_every == 0 or episode == schedule.episodes or stopping:
                    training.save(episode, state, loader.get_state(), episode=episode, skipped_updates=skipped)
                if stopping:
                    training.end_early()
        return training.export(state, reason)


@dataclasses.dataclass(frozen=True)
class UpdateSchedule:
    """How many updates a run is planned to make.

    An episode in which groups are dropped may make fewer updates than planned. Those that it does not make count as
    made, for the learning rate and for the run's end.

    Attributes:
      steps: planned updates of the whole run.
      updates_per_episode: planned updates of an episode; the last one has fewer where `steps` is no multiple.
    """

    steps: int
    updates_per_episode: int

    @classmethod
    def of(cls, config: ConfigDict, records: int, data_name: str) -> UpdateSchedule:
        """Makes the schedule of an experiment.

        Args:
          config: see `run`.
          records: how many records of the data set are in an epoch.
          data_name: names the data set in the error message.

        Raises:
          ConfigError: the records do not fill one episode.
        """
        train, per_episode = config.train, config.grpo.queries_per_episode
        queries = records * train.epochs
        updates_per_episode = -(-per_episode * config.rollout.samples // train.batch_size)
        steps = train.steps or queries // per_episode * updates_per_episode
        if not steps:
            raise ConfigError(
                f"{queries} queries of {data_name} in config.train.epochs do not fill an episode:"
                f" config.grpo.queries_per_episode is {per_episode}"
            )
        return cls(steps, updates_per_episode)

    @property
    def episodes(self) -> int:
        """Episodes of the whole run."""
        return -(-self.steps // self.updates_per_episode)

    def steps_of(self, episode: int) -> range:
        """The numbers, from 0, of the updates planned for an episode; episodes are numbered from 1."""
        return range((episode - 1) * self.updates_per_episode, self.steps)[: self.updates_per_episode]


@dataclasses.dataclass(frozen=True)
class Learner:
    """What all episodes of a run use.

    Attributes:
      config: the experiment.
      training: the run, with its shards, directory and timers.
      policy, sampling: what acts, and how its tokens are sampled.
      pool: scores answers.
      trainer, learning_rate: what updates, and its learning rate by the number of the update, from 0.
      passes: what an update needs besides.
      schedule: the updates that are planned.
      stop: whether SIGTERM has come.
    """

    config: ConfigDict
    training: TrainingRun
    policy: Policy
    pool: AnswerPool
    trainer: Trainer
    passes: UpdatePasses
    schedule: UpdateSchedule
    sampling: SamplingSettings
    learning_rate: Callable[[int], float]
    stop: StopRequest


class EpisodeDropped(Exception):
    """SIGTERM has ended an episode, which is to be begun anew: the state before it is still there, or saved."""


def run_episode(
    learner: Learner, episode: int, queries: list[Query], state: TrainState
) -> tuple[TrainState, dict[str, float]]:
    """Rolls out the queries with the parameters of `state`, rewards the responses, and updates on them.

    Args:
      learner: the same for all episodes.
      episode: its number, from 1.
      queries: the queries of this process: `shards.share` for each of its shards, shard by shard.
      state: is donated to the first update; returned as it is if the episode makes none.

    Returns:
      The state after the episode, and the episode's metrics over all processes; `skipped_updates` of its updates had
      nothing to train on.

    Raises:
      EpisodeDropped: SIGTERM has come.
    """
    config, training, policy = learner.config, learner.training, learner.policy
    samples, unchecked = config.rollout.samples, learner.pool.unchecked

    policy.params = state.params
    with training.phase("rollout"):  # answers are scored at the same time
        seed = _episode_seed(config.seed, episode)
        try:
            with policy.stream(queries, samples, seed, sampling=learner.sampling, stop=learner.stop.asked) as stream:
                groups, correct = collect(stream, len(queries), samples, learner.pool)
        except RolloutStopped:
            raise EpisodeDropped from None
    rewarded = reward_groups(groups, correct, config.curiosity, config.grpo.normalize_std)
    unchecked = int(all_gather(np.int32(learner.pool.unchecked - unchecked)).sum())
    failed = int(all_gather(np.int32(rewarded.failed_queries)).sum())

    metrics, skipped = [], 0
    updates = _split_into_updates(rewarded, training, config.train.batch_size)
    with training.phase("update"):
        learner.passes.begin_episode(state, updates, training)
    for step, sequences in zip(learner.schedule.steps_of(episode), updates, strict=False):
        begins_anew = not metrics or episode == 1 or training.has_saved(episode - 1)
        if learner.stop.agreed() and begins_anew:
            raise EpisodeDropped
        with training.phase("pack"):
            agreed = training.agree_on_shapes(training.plan(sequences))
            batches = agreed()
        with training.phase("update"):
            batches, figures = learner.passes.prepare(state, agreed, batches)
            state, update_metrics = learner.trainer.update(state, batches, learner.learning_rate(step))
        if update_metrics:
            metrics.append({**update_metrics, **figures})
        else:
            skipped += 1
    counts = {
        "failed_queries": failed,
        "answers_unchecked": unchecked,
        "updates": len(metrics),
        "skipped_updates": skipped,
    }
    return state, {**rewarded.metrics(), **counts, **_summary(metrics)}


def _split_into_updates(
    rewarded: RewardedGroups, training: TrainingRun, batch_size: int
) -> list[Mapping[int, list[Sequence]]]:
    """Splits the episode's responses into updates: for each update, the sequences of each shard of this process.

    There are as many updates as the responses of all processes fill batches, and every shard spreads its responses
    evenly over them.
    """
    share = training.shards.share
    sequences = {
        shard: rewarded.sequences(slice(number * share, (number + 1) * share))
        for number, shard in enumerate(training.shards.local)
    }
    total = int(all_gather(np.int32(sum(map(len, sequences.values())))).sum())
    updates = -(-total // batch_size)
    slices = {
        shard: split_by_tokens([len(sequence.tokens) for sequence in responses], updates)
        for shard, responses in sequences.items()
    }
    return [
        {shard: responses[slices[shard][update]] for shard, responses in sequences.items()} for update in range(updates)
    ]


def check_lengths(config: ConfigDict) -> None:
    """Checks that a packed row has room for the longest response.

    Raises:
      ConfigError: responses may be longer than a row; the message names both settings.
    """
    longest, row = config.rollout.max_length, config.train.row_length
    if longest > row:
        raise ConfigError(
            f"config.rollout.max_length is {longest}: such a response does not fit into a row of"
            f" config.train.row_length = {row} tokens"
        )


def make_policy(config: ConfigDict, training: TrainingRun) -> Policy:
    """The policy of an RL experiment; it shares the model that is trained."""
    return Policy(
        training.model,
        training.processor,
        registry=training.settings.registry(),
        limits=training.settings.limits,
        guidelines=training.settings.guidelines,
        slots=config.rollout.slots,
        gather_parameters=config.rollout.gather_parameters,
    )


def make_reader(config: ConfigDict, policy: Policy) -> QueryReader:
    """Reads the queries of an RL experiment: those that the policy can be asked, and has room to answer."""
    # A store of its own, which keeps nothing: queries are read long before they are asked.
    prompt = functools.partial(policy.prompt, store=PictureStore(0))
    return QueryReader(prompt, config.rollout.max_length)


def make_trainer(config: ConfigDict, model: Any, forbidden: np.ndarray) -> Trainer:
    """The trainer of an RL experiment.

    Args:
      config: see `run`.
      model: see `Trainer`.
      forbidden: bool [vocab], tokens that the rollouts never draw.
    """
    return Trainer(
        model,
        make_optimizer(config.optimizer),
        policy_loss(config),
        forbidden=forbidden,
        freeze_vision=config.train.freeze_vision,
        master_weights=config.optimizer.master_weights,
        details=details_of(config),
        entropy_gradient=bool(config.auxiliary.entropy),
    )


def _episode_seed(seed: int, episode: int) -> int:
    """The seed of an episode's rollout. Seeds differ, so that a query's responses differ from one epoch to the next."""
    return int(np.random.default_rng((seed, episode)).integers(2**31))


def _summary(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Means over the updates of an episode; tokens are summed.

    `logprob_difference` is the first update's: only there are the sampling and the trained policy the same.
    """
    if not metrics:
        return {}
    means = {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}
    return {
        **means,
        "tokens": sum(m["tokens"] for m in metrics),
        "logprob_difference": metrics[0]["logprob_difference"],
    }
