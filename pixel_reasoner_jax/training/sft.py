"""Phase one: instruction tuning on synthesized trajectories."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

from ml_collections import ConfigDict

from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.pipeline import record_count, trajectory_batches
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.training.feed import Feed
from pixel_reasoner_jax.training.losses import sft_loss
from pixel_reasoner_jax.training.optimizer import learning_rate_schedule, make_optimizer
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.stopping import StopRequest, WaitEnded
from pixel_reasoner_jax.training.training_run import TrainingRun, data_sets
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
    trajectories = record_count(data) * train.epochs
    steps = train.steps or trajectories // train.batch_size
    if not steps:
        raise ConfigError(
            f"{trajectories} trajectories of {data} in config.train.epochs do not fill a batch:"
            f" config.train.batch_size is {train.batch_size}"
        )
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        training = stack.enter_context(TrainingRun(config, resume))
        settings = LoaderSettings(workers=config.data.workers, max_unreadable=config.data.max_unreadable)
        stream = stack.enter_context(
            trajectory_batches(
                data,
                training.processor,
                training.shards.share,
                order=training.order,
                settings=settings,
                cache_bytes=CACHE_BYTES,
                row_length=train.row_length,
            )
        )
        trainer = make_trainer(config, training.model)
        learning_rate = learning_rate_schedule(config.optimizer, steps)
        state, counters = training.restore(trainer.init(), stream)
        skipped = counters.get("skipped_updates", 0)
        done = int(state.step) + skipped
        training.check_end(done, steps)
        batches = stack.enter_context(
            Feed(stream, lambda records: training.plan(_sequences(records)), training.agree_on_shapes, steps - done)
        )
        stop.begin()
        with training.progress("sft", steps, done) as progress:
            for step in range(done + 1, steps + 1):
                position = batches.get_state()
                try:
                    with training.phase("data"), stop.ending_waits():
                        packed = next(batches)
                except WaitEnded:
                    if step > 1 and not training.has_saved(step - 1):
                        training.save(step - 1, state, position, skipped_updates=skipped)
                    training.end_early()
                with training.phase("update"):
                    state, metrics = trainer.update(state, packed, learning_rate(step - 1))
                skipped += not metrics
                training.write(step, {**metrics, "skipped_records": batches.skipped, "skipped_updates": skipped})
                progress.update(step, **({"loss": metrics["loss"]} if metrics else {}))
                stopping = stop.agreed()
                if step % train.checkpoint_every == 0 or step == steps or stopping:
                    training.save(step, state, batches.get_state(), skipped_updates=skipped)
                if stopping:
                    training.end_early()
        return training.export(state)


def make_trainer(config: ConfigDict, model: Any) -> Trainer:
    """The trainer of an SFT experiment; see `Trainer` for the model."""
    return Trainer(
        model,
        make_optimizer(config.optimizer),
        _loss,
        freeze_vision=config.train.freeze_vision,
        master_weights=config.optimizer.master_weights,
    )


def _sequences(trajectories: dict[int, list[Trajectory]]) -> dict[int, list[Sequence]]:
    return {shard: [*map(Sequence.of, records)] for shard, records in trajectories.items()}


def _loss(logprobs, entropy, details, normalizer):
    return sft_loss(logprobs, details["target_mask"] > 0, normalizer)
