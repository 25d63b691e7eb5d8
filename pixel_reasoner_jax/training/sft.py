"""Phase one: instruction tuning on synthesized trajectories."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.pipeline import DatasetMixture, record_count, trajectory_batches
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.rollout import Policy
from pixel_reasoner_jax.training.evaluation import EvaluationStopped, Plan, RunEvaluation, unwritten
from pixel_reasoner_jax.training.feed import Feed
from pixel_reasoner_jax.training.losses import sft_loss
from pixel_reasoner_jax.training.optimizer import learning_rate_schedule, make_optimizer
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.stopping import StopRequest, WaitEnded
from pixel_reasoner_jax.training.training_run import TrainingRun, data_sets
from pixel_reasoner_jax.training.validation import Validation, validation_records
from pixel_reasoner_jax.trajectory import Trajectory

CACHE_BYTES = 2**29  # memory for rendered trajectories, so that a small data set is decoded and resized only once


def run(config: ConfigDict, resume: bool | int = False) -> pathlib.Path:
    """Trains on the trajectories in `config.data.path`; configs/sft_qwen2_5_vl_7b.py documents every key.

    Args:
      config: an SFT experiment.
      resume: go on from the newest whole checkpoint in `config.workdir`, or from that of a step.

    Returns:
      The directory of the trained model, in the Hugging Face form.

    Raises:
      RunStopped: SIGTERM has come, and the state after the step that was running is saved.
    """
    train = config.train
    data = data_sets(config)
    steps = count_steps(config, data)
    held_out = validation_records(config, [data] if isinstance(data, str) else [path for path, _ in data])
    plan = Plan.of(config, has_loss=bool(held_out))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        training = stack.enter_context(TrainingRun(config, resume))
        stream = stack.enter_context(read_trajectories(config, data, training))
        trainer = make_trainer(config, training.model)
        learning_rate = learning_rate_schedule(config.optimizer, steps)
        state, counters = training.restore(trainer.init(), stream)
        skipped = counters.get("skipped_updates", 0)
        done = int(state.step) + skipped
        training.check_end(done, steps)
        evaluation = make_evaluation(config, training, plan, stop, trainer, held_out)
        evaluation.restore(counters.get("evaluation"))

        def save(step: int, position: dict[str, Any], **more: Any) -> None:
            training.save(step, state, position, skipped_updates=skipped, evaluation=evaluation.to_json(), **more)

        batches = stack.enter_context(
            Feed(stream, lambda records: training.plan(_sequences(records)), training.agree_on_shapes, steps - done)
        )
        stop.begin()
        evaluation.begin(done, steps, state.params, int(state.step), counters.get("unwritten"))
        with training.progress("sft", steps, done) as progress:
            for step in range(done + 1, steps + 1):
                if evaluation.is_over:
                    evaluation.say_end(step - 1)
                    break
                position = batches.get_state()
                try:
                    with training.phase("data"), stop.ending_waits():
                        packed = next(batches)
                except WaitEnded:
                    if step > 1 and not training.has_saved(step - 1):
                        save(step - 1, position)
                    training.end_early()
                with training.phase("update"):
                    state, metrics = trainer.update(state, packed, learning_rate(step - 1))
                skipped += not metrics
                metrics |= {"skipped_records": batches.skipped, "skipped_updates": skipped}
                try:
                    figures = evaluation.after(step, steps, state.params, int(state.step))
                except EvaluationStopped:
                    save(step, batches.get_state(), unwritten=unwritten(metrics))
                    training.end_early()
                training.write(step, {**metrics, **figures})
                progress.update(step, **({"loss": metrics["loss"]} if "loss" in metrics else {}))
                stopping = stop.agreed()
                wanted = step % train.checkpoint_every == 0 or evaluation.is_best or evaluation.is_over
                if wanted or step == steps or stopping:
                    save(step, batches.get_state())
                evaluation.keep_best()
                if stopping:
                    training.end_early()
        return training.export(state)


def count_steps(config: ConfigDict, data: DatasetMixture) -> int:
    """The updates that a run makes.

    Raises:
      ConfigError: there are too few trajectories for one.
    """
    train = config.train
    trajectories = record_count(data, held_out_share=config.data.held_out) * train.epochs
    if not (steps := train.steps or trajectories // train.batch_size):
        raise ConfigError(
            f"{trajectories} trajectories of {data} in config.train.epochs do not fill a batch:"
            f" config.train.batch_size is {train.batch_size}"
        )
    return steps


def read_trajectories(config: ConfigDict, data: DatasetMixture, training: TrainingRun) -> Any:
    """The batches of an SFT experiment; see `trajectory_batches`."""
    return trajectory_batches(
        data,
        training.processor,
        training.shards.share,
        order=training.order,
        settings=LoaderSettings(workers=config.data.workers, max_unreadable=config.data.max_unreadable),
        cache_bytes=CACHE_BYTES,
        row_length=config.train.row_length,
        held_out_share=config.data.held_out,
    )


def make_evaluation(
    config: ConfigDict,
    training: TrainingRun,
    plan: Plan,
    stop: StopRequest,
    trainer: Trainer,
    held_out: list[tuple[str, list[int]]],
) -> RunEvaluation:
    """The evaluation of an SFT experiment, with the loss of the held-out records, if there are any."""
    validation = None
    if held_out:
        validation = Validation(training, trainer, held_out, config.train.row_length, config.data.max_unreadable)
    return RunEvaluation(config, training, plan, stop, lambda params: make_policy(config, training, params), validation)


def make_trainer(config: ConfigDict, model: Any) -> Trainer:
    """The trainer of an SFT experiment; see `Trainer` for the model."""
    return Trainer(
        model,
        make_optimizer(config.optimizer),
        _loss,
        freeze_vision=config.train.freeze_vision,
        master_weights=config.optimizer.master_weights,
    )


def make_policy(config: ConfigDict, training: TrainingRun, params: Any) -> Policy:
    """The policy of an SFT experiment, for its evaluations; it shares the model that is trained, with its `params`."""
    nnx.update(training.model, params)  # updates have been given the arrays of those that it had
    limits = training.settings.limits
    if limits.max_length is None:
        limits = dataclasses.replace(limits, max_length=config.train.row_length)
    return Policy(
        training.model,
        training.processor,
        registry=training.settings.registry(),
        limits=limits,
        guidelines=training.settings.guidelines,
        slots=config.evaluation.slots,
    )


def _sequences(trajectories: dict[int, list[Trajectory]]) -> dict[int, list[Sequence]]:
    return {shard: [*map(Sequence.of, records)] for shard, records in trajectories.items()}


def _loss(logprobs, entropy, details, normalizer):
    return sft_loss(logprobs, details["target_mask"] > 0, normalizer)
