"""One episode of RL: queries are rolled out, their responses rewarded and chosen from, and updates made on them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.parallel import all_gather
from pixel_reasoner_jax.rewards import AnswerPool
from pixel_reasoner_jax.rollout import Policy, Query, SamplingSettings
from pixel_reasoner_jax.rollout.scheduler import RolloutStopped
from pixel_reasoner_jax.rollout.subgroups import Part, Subgroups, settings_of
from pixel_reasoner_jax.training.collecting import Collected, collect
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.given_tokens import with_logprobs
from pixel_reasoner_jax.training.grpo import RewardedGroups, reward_groups
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.policy_update import UpdatePasses
from pixel_reasoner_jax.training.query_order import QueryOrder
from pixel_reasoner_jax.training.replay import Candidates, choose_responses, replayed_share
from pixel_reasoner_jax.training.rollout_progress import RolloutProgress
from pixel_reasoner_jax.training.samples import error_counts, log_samples
from pixel_reasoner_jax.training.schedules import config_at, progress_of
from pixel_reasoner_jax.training.state import Trainer, TrainState
from pixel_reasoner_jax.training.stopping import StopRequest
from pixel_reasoner_jax.training.training_run import TrainingRun
from pixel_reasoner_jax.training.update_schedule import UpdateSchedule
from pixel_reasoner_jax.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Learner:
    """What all episodes of a run use.

    Attributes:
      config: the experiment.
      training: the run, with its shards, directory and timers.
      policy, sampling: what acts, and how its tokens are sampled.
      subgroups: the ways in which queries are asked.
      pool: scores answers.
      trainer, learning_rate: what updates, and its learning rate by the number of updates made before.
      passes: what an update needs besides.
      schedule: the updates that are planned.
      stop: whether SIGTERM has come.
      show: takes a text that says how far an episode is.
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
    show: Callable[[str], None]
    subgroups: Subgroups

    def in_episode(self, episode: int) -> Learner:
        """The same with the settings of an episode, which `config.schedules` says."""
        if not self.config.schedules:
            return self
        config = config_at(self.config, progress_of(episode, self.schedule.episodes))
        return dataclasses.replace(
            self, config=config, sampling=sampling_of(config), subgroups=Subgroups.of(config.rollout)
        )


class EpisodeDropped(Exception):
    """SIGTERM has ended an episode, which is to be begun anew: the state before it is still there, or saved."""


def run_episode(
    learner: Learner,
    episode: int,
    read_queries: Callable[[], list[Query]],
    state: TrainState,
    curiosity: CuriosityState,
) -> tuple[TrainState, CuriosityState, dict[str, float]]:
    """Rolls out queries with the parameters of `state`, rewards the responses, and updates on them.

    Args:
      learner: the same for all episodes.
      episode: its number, from 1.
      read_queries: returns the next queries of this process: `shards.share` for each of its shards, shard by shard.
      state: is donated to the first update; returned as it is if the episode makes none.
      curiosity: what the curiosity reward has carried so far.

    Returns:
      Both states after the episode, and the episode's metrics over all processes; `skipped_updates` of the planned ones
      had nothing to train on.

    Raises:
      EpisodeDropped: SIGTERM has come.
    """
    learner = learner.in_episode(episode)
    config, training, policy = learner.config, learner.training, learner.policy
    unchecked, collected = learner.pool.unchecked, None

    policy.params, policy.policy_version = state.params, int(state.step)
    for sampling_round in range(1, config.grpo.sampling_rounds + 1):
        more = _roll_out(learner, episode, sampling_round, read_queries())
        collected = more if collected is None else collected + more
        order = QueryOrder(np.tile(np.repeat(training.shards.local, training.shards.share), sampling_round))
        rewarded = reward_groups(collected, config, curiosity, order, learner.subgroups)
        if rewarded.informative() >= config.grpo.queries_per_episode:
            break
    policy.release()
    unchecked = int(all_gather(np.int32(learner.pool.unchecked - unchecked)).sum())
    failed = int(all_gather(np.int32(rewarded.failed_queries)).sum())

    logged = error_counts(rewarded.groups)
    logged |= log_samples(
        training, learner.trainer, state.params, rewarded, episode, config.train.log_samples, config.seed
    )

    metrics = []
    planned = learner.schedule.planned(episode)
    updates, replayed = _choose_updates(learner, episode, rewarded, planned, state)
    with training.phase("update"):
        learner.passes.begin_episode(state, updates, training, config)
    for sequences in updates:
        begins_anew = not metrics or episode == 1 or training.has_saved(episode - 1)
        if learner.stop.agreed() and begins_anew:
            raise EpisodeDropped
        with training.phase("pack"):
            agreed = training.agree_on_shapes(training.plan(sequences))
            batches = agreed()
        with training.phase("update"):
            batches, figures = learner.passes.prepare(state, agreed, batches)
            state, update_metrics = learner.trainer.update(state, batches, learner.learning_rate(int(state.step)))
        if update_metrics:
            metrics.append({**update_metrics, **figures})
    counts = {
        "failed_queries": failed,
        "answers_unchecked": unchecked,
        "updates": len(metrics),
        "planned_updates": planned,
        "skipped_updates": planned - len(metrics),
        "replayed": replayed,
        "sampling_rounds": sampling_round,
    }
    logged |= learner.passes.seconds()
    figures = rewarded.metrics()
    curiosity = rewarded.curiosity.after(rewarded.rate, figures.get("operations"), config.curiosity)
    return state, curiosity, {**figures, **rewarded.curiosity.metrics(), **logged, **counts, **_summary(metrics)}


def _roll_out(learner: Learner, episode: int, sampling_round: int, queries: list[Query]) -> Collected:
    """Rolls out queries with the policy's parameters; answers are scored at the same time. See `collecting`."""
    policy, subgroups = learner.policy, learner.subgroups
    # Another seed for every round: the data may have begun anew, and a query be asked twice.
    seed = (_episode_seed(learner.config.seed, episode) + sampling_round - 1) % 2**31

    @contextlib.contextmanager
    def ask(parts: list[Part]) -> Iterator[Iterable[tuple[int, Trajectory]]]:
        samples = [part.samples for part in parts]
        progress = RolloutProgress(learner.show, samples, policy.counters)
        asked = [part.query for part in parts]
        per_query = None if subgroups.are_alike else functools.partial(settings_of, build=policy.prompt)
        with policy.stream(
            asked,
            max(samples, default=1),
            seed,
            sampling=learner.sampling,
            stop=progress.asking(learner.stop.asked),
            per_query=per_query,
        ) as stream:
            yield progress.counting(stream)

    def give(part: Part) -> Trajectory | None:
        return part.given(policy, seed)

    with learner.training.phase("rollout"):
        try:
            collected = collect(ask, give, queries, subgroups, learner.pool)
        except RolloutStopped:
            raise EpisodeDropped from None
    subgroups.clean(collected.groups, policy.processor)
    return collected


def _choose_updates(
    learner: Learner, episode: int, rewarded: RewardedGroups, planned: int, state: TrainState
) -> tuple[list[dict[int, list[Sequence]]], float]:
    """The sequences of each of an episode's updates, at most `planned`, for each shard of this process; see `replay`.

    Returns:
      The updates, and the share of their responses, those of all processes, that are replayed ones.
    """
    config, shards = learner.config, learner.training.shards
    order, samples = rewarded.order, config.rollout.samples
    candidates = Candidates(
        *(order.gather(table).ravel() for table in rewarded.candidates()),
        shards=np.repeat(order.shards, samples),
        updates=learner.schedule.updates_per_episode,
        batch_size=config.train.batch_size,
        alpha=config.replay.alpha,
        seed=(config.seed, episode),
        samples=samples,
    )
    updates = choose_responses(config.replay.method, candidates)[:planned]
    sequences = rewarded.sequences()
    if learner.subgroups.given:
        own_shards = order.shards[order.own].tolist()
        shard_of = {place: own_shards[place[0]] for place in sequences}
        sequences = with_logprobs(sequences, shard_of, learner.trainer, state.params, learner.training)
    own = {int(order.own[query]) * samples + sample: sequence for (query, sample), sequence in sequences.items()}
    of_shards = [
        {
            shard: [own[index] for index in indices.tolist() if candidates.shards[index] == shard]
            for shard in shards.local
        }
        for indices in updates
    ]
    return of_shards, replayed_share(updates)


def sampling_of(config: ConfigDict) -> SamplingSettings:
    """How the tokens of a rollout are sampled, in the first turn and in later ones."""
    return SamplingSettings(config.rollout.temperature, later=SamplingSettings(config.rollout.later_temperature))


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
