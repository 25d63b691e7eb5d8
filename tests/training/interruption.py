"""A run that dies between two checkpoints."""

import pytest

from pixel_reasoner_jax.training.training_run import TrainingRun


class Killed(Exception):
    pass


def interrupted(monkeypatch, run, config, after: int) -> None:
    """Runs until the figures of step `after` are written, then dies before anything else is saved."""
    write = TrainingRun.write

    def write_then_die(self, step, metrics):
        write(self, step, metrics)
        if step == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "write", write_then_die)
        with pytest.raises(Killed):
            run(config)
