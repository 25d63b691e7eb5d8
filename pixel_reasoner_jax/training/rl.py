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
import functools
import logging
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipeline.batch_loader import BatchLoader, LoaderSettings
from data_pipeline.pipeline import DatasetMixture, query_batches, record_count
from data_pipeline.reader import QueryReader
from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.parallel import is_main
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rewards import AnswerPool
from pixel_reasoner_jax.rollout import Policy, Query, SamplingSettings
from pixel_reasoner_jax.rollout.subgroups import Subgroups
from pixel_reasoner_jax.training.alarms import AlarmLog
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.evaluation import EvaluationStopped, Plan, RunEvaluation, unwritten
from pixel_reasoner_jax.training.grpo import why_no_update
from pixel_reasoner_jax.training.losses import has_entropy_gradient, policy_loss
from pixel_reasoner_jax.training.optimizer import learning_rate_schedule, make_optimizer
from pixel_reasoner_jax.training.policy_update import UpdatePasses, details_of, settle_correction
from pixel_reasoner_jax.training.rl_episode import EpisodeDropped, Learner, run_episode, sampling_of
from pixel_reasoner_jax.training.rl_settings import check_settings
from pixel_reasoner_jax.training.samples import drop_samples_after
from pixel_reasoner_jax.training.state import Trainer, TrainState
from pixel_reasoner_jax.training.stopping import StopRequest, WaitEnded
from pixel_reasoner_jax.training.training_run import TrainingRun, data_sets
from pixel_reasoner_jax.training.update_schedule import UpdateSchedule

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
        loader = stack.enter_context(read_queries(config, data, training, policy))
        forbidden = np.zeros(training.model.config.vocab_size, bool)
        forbidden[training.processor.forbidden_tokens] = True
        trainer = make_trainer(config, training.model, forbidden)
        passes = UpdatePasses(config, trainer, training.model)
        sampling = sampling_of(config)
        learning_rate = learning_rate_schedule(config.optimizer, schedule.steps)
        state, counters = training.restore(trainer.init(), loader)
        done = counters.get("episode", 0)
        training.check_end(done, schedule.episodes, "episode")
        if resume and is_main():
            drop_samples_after(training.workdir, done)
        if not config.rollout.slots:
            fit_to_memory(config, training, policy, sampling)
        curiosity = CuriosityState.begin(config.curiosity, counters.get("multipliers"))
        evaluation = RunEvaluation(config, training, plan, stop, lambda _: policy)
        evaluation.restore(counters.get("evaluation"))
        stop.begin()
        evaluation.begin(done, schedule.episodes, state.params, int(state.step), counters.get("unwritten"))
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
            state, reason = learn(learner, loader, evaluation, progress, state, curiosity, counters)
        return training.export(state, reason)


def learn(
    learner: Learner,
    loader: BatchLoader,
    evaluation: RunEvaluation,
    progress: Progress,
    state: TrainState,
    curiosity: CuriosityState,
    counters: Mapping[str, Any],
) -> tuple[TrainState, str]:
    """Makes the episodes that are left, and after each what is due: metrics, alarms, an evaluation, a checkpoint.

    Args:
      learner: the same for all episodes.
      loader: see `read_queries`.
      evaluation, progress: are told of every episode.
      state, curiosity: before the next episode.
      counters: what the checkpoint that the run goes on from has besides; nothing if it begins.

    Returns:
      The last state, and why the last episode that made no update made none; "" if all made some.
    """
    config, training, stop, last = learner.config, learner.training, learner.stop, learner.schedule.episodes
    done, skipped = counters.get("episode", 0), counters.get("skipped_updates", 0)
    before = [line for line in training.metrics_so_far() if "unwritten" not in counters or line["step"] < done]
    before += filter(None, [counters.get("unwritten")])
    reason, alarms = "", AlarmLog(config, before, functools.partial(training.track, "alarm"))

    def next_queries() -> list[Query]:
        with training.phase("data"), stop.ending_waits():
            return [query for shard in next(loader).values() for query in shard]

    def save(episode: int, position: dict[str, Any], **more: Any) -> None:
        carried = dict(skipped_updates=skipped, multipliers=curiosity.to_json(config.curiosity))
        carried["evaluation"] = evaluation.to_json()
        training.save(episode, state, position, episode=episode, **carried, **more)

    for episode in range(done + 1, last + 1):
        if evaluation.is_over:
            evaluation.say_end(episode - 1)
            break
        position = loader.get_state()
        try:
            state, curiosity, metrics = run_episode(learner, episode, next_queries, state, curiosity)
        except (EpisodeDropped, WaitEnded):
            if episode > 1 and not training.has_saved(episode - 1):
                save(episode - 1, position)
            training.end_early()
        skipped += metrics.pop("skipped_updates")
        metrics |= alarms.after(episode, metrics)
        metrics |= {"skipped_records": loader.skipped, "skipped_updates": skipped}
        try:
            figures = evaluation.after(episode, last, state.params, int(state.step))
        except EvaluationStopped:
            save(episode, loader.get_state(), unwritten=unwritten(metrics))
            training.end_early()
        training.write(episode, {**metrics, **figures})
        progress.update(episode, **{name: metrics[name] for name in SHOWN if name in metrics})
        if not metrics["updates"]:
            reason = say_why_no_update(episode, metrics, config, reason)
        stopping = stop.agreed()
        wanted = episode % config.train.checkpoint_every == 0 or evaluation.is_best or evaluation.is_over
        if wanted or episode == last or stopping:
            save(episode, loader.get_state())
        evaluation.keep_best()
        if stopping:
            training.end_early()
    return state, reason


def say_why_no_update(episode: int, metrics: Mapping[str, Any], config: ConfigDict, before: str) -> str:
    """Says why an episode made no update, and returns it; `before` is what was said last."""
    reason = why_no_update(metrics, config)
    if is_main():
        short = "as before" if _without_figures(before) == _without_figures(reason) else reason
        _log.warning("episode %d made no update: %s", episode, short)
    return reason


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


def read_queries(config: ConfigDict, data: DatasetMixture, training: TrainingRun, policy: Policy) -> BatchLoader:
    """The queries of an RL experiment that the policy can be asked, and has room to answer; see `query_batches`."""
    # A store of its own, which keeps nothing: queries are read long before they are asked.
    prompt = functools.partial(policy.prompt, store=PictureStore(0))
    return query_batches(
        data,
        training.shards.share,
        order=training.order,
        settings=LoaderSettings(max_unreadable=config.data.max_unreadable),
        pass_rates=config.data.pass_rates,
        reader=QueryReader(prompt, config.rollout.max_length),
    )


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
        entropy_gradient=has_entropy_gradient(config),
    )


def _without_figures(reason: str) -> str:
    """What two reasons share that differ in their figures alone."""
    return re.sub(r"[\d.]+", "", reason)
