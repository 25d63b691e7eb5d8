"""Checkpoints of a run: the training state as arrays, and as JSON all else that the run needs to go on."""

from __future__ import annotations

import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from pixel_reasoner_jax.arrays import CheckpointError, array_shapes, first_difference, shapes_of
from pixel_reasoner_jax.files import absolute, as_path

STATE, META = "state", "meta"
CHECKPOINTS = "checkpoints"  # folder in a run's directory


class Checkpoints:
    """The newest `keep` checkpoints of one run.

    Saving copies the arrays from the devices and writes them in the background; the training loop may donate its state
    to the next update at once. A checkpoint appears under its step only when it is complete: one whose writing was
    interrupted is never found, and its remains are removed when the run goes on.

    Args:
      directory: made if missing.
      keep: how many checkpoints are kept; older ones are deleted.
      read_only: change nothing, for example while a run is writing a checkpoint.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3, read_only: bool = False):
        self.directory = epath.Path(absolute(directory))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=not read_only, read_only=read_only
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Starts writing a checkpoint. An existing one of the same step is left as it is.

        Args:
          step: larger than those saved before.
          state: pytree of arrays.
          meta: all else that the run needs, as JSON: counters, the state of the data iterator.
        """
        if step in self._manager.all_steps():
            return
        arguments = {STATE: ocp.args.StandardSave(state), META: ocp.args.JsonSave(meta)}
        self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def restore(self, target: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
          target: pytree like the one saved, of arrays or `jax.ShapeDtypeStruct`, with the types and the shardings that
            the arrays get; these need not be those that the arrays were saved with.
          step: of the checkpoint; None for the newest.

        Returns:
          The state, and the `meta` saved with it.

        Raises:
          CheckpointError: there is no such checkpoint, or it does not fit the target.
        """
        step = self._step(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        if difference := first_difference(shapes_of(abstract), array_shapes(self.state_directory(step))):
            raise CheckpointError(f"checkpoint {step} in {self.directory} does not fit this run: {difference}")
        arguments = {STATE: ocp.args.StandardRestore(abstract), META: ocp.args.JsonRestore()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        return restored[STATE], restored[META]

    def state_directory(self, step: int | None = None) -> epath.Path:
        """The directory of a checkpoint's arrays, for `arrays.read_arrays`; step None is the newest.

        Raises:
          CheckpointError: there is no such checkpoint.
        """
        return self.directory / str(self._step(step)) / STATE

    def wait(self) -> None:
        """Waits until all checkpoints are on disk; raises the exception of a background write that has failed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all checkpoints are on disk, and ends the background threads."""
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _step(self, step: int | None) -> int:
        """The step, if it has a checkpoint; for None, the newest step.

        Raises:
          CheckpointError: there is no such checkpoint.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise CheckpointError(f"there is no checkpoint in {self.directory}")
        if step is not None and step not in steps:
            raise CheckpointError(f"there is no checkpoint {step} in {self.directory}; there are {steps}")
        return steps[-1] if step is None else step


def check_is_no_run(directory: str | os.PathLike) -> None:
    """Checks that a directory, where a model's is needed, is not the directory of a run.

    Raises:
      CheckpointError: it is the directory of a run; the message says where the run's model is.
    """
    directory = as_path(directory)
    if (directory / CHECKPOINTS).is_dir():
        raise CheckpointError(
            f"{directory} is the directory of a run: give {directory / 'model'}, or make one with"
            f" `pixel-reasoner export {directory} --out DIR`"
        )
