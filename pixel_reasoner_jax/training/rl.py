"""Phase two, curiosity-driven GRPO, as in section 4 of the paper (arXiv 2505.15966).

for every episode of queries:
    the behaviour policy takes the trained parameters
    roll out G responses to every query, and score their answers; with dynamic sampling, ask more queries in place of
        those whose groups are uniform
    reward = correctness + alpha * curiosity bonus - beta * penalty for operations, or other terms by their weights
    groups whose rewards are all alike (uniform) are dropped
    advantage = reward - mean of the query's group, or another one; responses that met a limit may be left out
    for every planned update: what its loss needs besides (see `policy_update`), and one step of the optimizer on its
        share of the responses, and on as many replayed ones, drawn with a probability that rises with |advantage|, as
        fill the batch
    the multipliers alpha and beta stay as they are, or take a step of dual ascent
An update that no response is left for is skipped; the learning rate waits for it, and the number of episodes does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.pipeline import query_batches, record_count
from data_pipeline.reader import QueryReader
from pixel_reasoner_jax.parallel import all_gather, is_main
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rewards import AnswerPool
from pixel_reasoner_jax.rollout import Policy, Query, SamplingSettings
from pixel_reasoner_jax.rollout.scheduler import RolloutStopped
from pixel_reasoner_jax.rollout.subgroups import Part, Subgroups, settings_of
from pixel_reasoner_jax.training.alarms import AlarmLog
from pixel_reasoner_jax.training.collecting import Collected, collect
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.evaluation import EvaluationStopped, Plan, RunEvaluation, unwritten
from pixel_reasoner_jax.training.given_tokens import with_logprobs
from pixel_reasoner_jax.training.grpo import RewardedGroups, reward_groups, why_no_update
from pixel_reasoner_jax.training.losses import policy_loss
from pixel_reasoner_jax.training.optimizer import learning_rate_schedule, make_optimizer
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.policy_update import UpdatePasses, details_of, settle_correction
from pixel_reasoner_jax.training.query_order import QueryOrder
from pixel_reasoner_jax.training.replay import Candidates, choose_responses, replayed_share
from pixel_reasoner_jax.training.rl_settings import check_settings
from pixel_reasoner_jax.training.rollout_progress import RolloutProgress
from pixel_reasoner_jax.training.samples import drop_samples_after, error_counts, log_samples
from pixel_reasoner_jax.training.state import Trainer, TrainState
from pixel_reasoner_jax.training.stopping import StopRequest, WaitEnded
from pixel_reasoner_jax.training.training_run import TrainingRun, data_sets
from pixel_reasoner_jax.training.update_schedule import UpdateSchedule
from pixel_reasoner_jax.trajectory import Trajectory

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
    settle_correction(config)
    check_settings(config, bool(resume))
    data = data_sets(config)
    schedule = UpdateSchedule.of(config, record_count(data, config.data.pass_rates), str(data))
    plan = Plan.of(config)
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
        state, counters = training.restore(trainer.init(), loader)
        done, skipped = counters.get("episode", 0), counters.get("skipped_updates", 0)
        training.check_end(done, schedule.episodes, "episode")
        if resume and is_main():
            drop_samples_after(training.workdir, done)
        if not config.rollout.slots:
            fit_to_memory(config, training, policy, sampling)
        curiosity = CuriosityState.begin(config.curiosity, counters.get("multipliers"))
        evaluation = RunEvaluation(config, training, plan, stop, lambda _: policy)
        evaluation.restore(counters.get("evaluation"))

        def read_queries() -> list[Query]:
            with training.phase("data"), stop.ending_waits():
                return [query for shard in next(loader).values() for query in shard]

        def save(episode: int, position: dict[str, Any], **more: Any) -> None:
            carried = dict(skipped_updates=skipped, multipliers=curiosity.to_json(config.curiosity))
            carried["evaluation"] = evaluation.to_json()
            training.save(episode, state, position, episode=episode, **carried, **more)

        before = [line for line in training.metrics_so_far() if "unwritten" not in counters or line["step"] < done]
        before += filter(None, [counters.get("unwritten")])
        reason, alarms = "", AlarmLog(config, before, functools.partial(training.track, "alarm"))
        stop.begin()
        if "unwritten" in counters:
            evaluation.finish(done, schedule.episodes, state.params, int(state.step), counters["unwritten"])
        with training.progress("rl", schedule.episodes, done) as progress:
            learner = Learner(
                config,
                training,
                policy,
                pool,
                trainer,
                passes,
                schedule,
                sampling,
                learning_rate,
                stop,
                progress.note,
                Subgroups.of(config.rollout),
            )
            for episode in range(done + 1, schedule.episodes + 1):
                if evaluation.is_over:
                    evaluation.say_end(episode - 1)
                    break
                position = loader.get_state()
                try:
                    state, curiosity, metrics = run_episode(learner, episode, read_queries, state, curiosity)
                except (EpisodeDropped, WaitEnded):
                    if episode > 1 and not training.has_saved(episode - 1):
                        save(episode - 1, position)
                    training.end_early()
                skipped += metrics.pop("skipped_updates")
                metrics |= alarms.after(episode, metrics)
                metrics |= {"skipped_records": loader.skipped, "skipped_updates": skipped}
                try:
                    figures = evaluation.after(episode, schedule.episodes, state.params, int(state.step))
                except EvaluationStopped:
                    save(episode, loader.get_state(), unwritten=unwritten(metrics))
                    training.end_early()
                training.write(episode, {**metrics, **figures})
                progress.update(episode, **{name: metrics[name] for name in SHOWN if name in metrics})
                if not metrics["updates"]:
                    before, reason = reason, why_no_update(metrics, config)
                    if is_main():
                        short = "as before" if _without_figures(before) == _without_figures(reason) else reason
                        _log.warning("episode %d made no update: %s", episode, short)
                stopping = stop.agreed()
                wanted = episode % config.train.checkpoint_every == 0 or evaluation.is_best or evaluation.is_over
                if wanted or episode == schedule.episodes or stopping:
                    save(episode, loader.get_state())
                evaluation.keep_best()
                if stopping:
                    training.end_early()
        return training.export(state, reason)


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
        learner.passes.begin_episode(state, updates, training)
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


def make_policy(config: ConfigDict, training: TrainingRun) -> Policy:
    """The policy of an RL experiment; it shares the model that is trained."""
    return Policy(
        training.model,
        training.processor,
        registry=training.settings.registry(),
        limits=training.settings.limits,
        guidelines=training.settings.guidelines,
        slots=config.rollout.slots or 1,  # until `fit_to_memory`
        cache_tokens=config.rollout.cache_tokens or None,
        rollout_mesh=config.rollout.mesh,
        weights=config.rollout.weights,
        cache_dtype=config.rollout.cache_dtype,
    )


def fit_to_memory(config: ConfigDict, training: TrainingRun, policy: Policy, sampling: SamplingSettings) -> None:
    """Decides on the responses in flight, and on the cache, by the memory that the training state leaves.

    It is written into the run's config, so that the run keeps it.
    """
    policy.fit_to_memory(config.grpo.queries_per_episode * config.rollout.samples, sampling)
    config.rollout.slots = policy.slots
    if config.rollout.cache_tokens:
        policy.cache_tokens = min(config.rollout.cache_tokens, policy.cache_tokens)
    config.rollout.cache_tokens = policy.cache_tokens
    training.save_config()
    if is_main():
        in_flight, tokens = f"{policy.slots:,} responses in flight", f"{policy.cache_tokens:,} tokens in the cache"
        print(f"rollouts: {in_flight}, {tokens}, as memory allows", file=sys.stderr, flush=True)


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


def _without_figures(reason: str) -> str:
    """What two reasons share that differ in their figures alone."""
    return re.sub(r"[\d.]+", "", reason)


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
