"""Checkpoints of a run: the training state as arrays and everything else it needs to go on, written as one."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import SingleDeviceSharding

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import absolute

STATE, META = "state", "meta"
CHECKPOINTS = "checkpoints"  # folder in a run's directory
PIECE = 2**26  # bytes that are read and written as one


class CheckpointError(UserError):
    """A checkpoint that is missing or does not fit; the message names the file or directory, and the tensor."""


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them.

    Saving copies the arrays off the devices and writes them in the background; the training loop may donate its state
    to the next update at once. A checkpoint appears under its step only when it is whole: one whose writing was
    interrupted is never found again, and its remains are removed when the run goes on.

    Args:
      directory: made if missing.
      keep: older checkpoints are deleted.
      read_only: leave everything as it is, such as what a run is writing at the moment.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3, read_only: bool = False):
        self.directory = epath.Path(absolute(directory))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=not read_only, read_only=read_only
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Starts writing a checkpoint; one of the same step is left as it is.

        Args:
          step: counts up.
          state: pytree of arrays.
          meta: what else the run needs, as JSON: counters, the state of the data iterator.
        """
        if step in self._manager.all_steps():
            return
        arguments = {STATE: ocp.args.StandardSave(state), META: ocp.args.JsonSave(meta)}
        self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint; None if there is none."""
        return self._manager.latest_step()

    def restore(self, target: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
          target: pytree like the one saved, of arrays or `jax.ShapeDtypeStruct`: gives structure, types and where each
            array shall lie (its sharding), which need not be where it lay when saved.
          step: None for the newest.

        Returns:
          The state and the meta saved with it.

        Raises:
          CheckpointError: there is no such checkpoint, or it does not fit the target.
        """
        step = self._step(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        if difference := first_difference(_shapes(abstract), array_shapes(self.state_directory(step))):
            raise CheckpointError(f"checkpoint {step} in {self.directory} does not fit this run: {difference}")
        arguments = {STATE: ocp.args.StandardRestore(abstract), META: ocp.args.JsonRestore()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        return restored[STATE], restored[META]

    def state_directory(self, step: int | None = None) -> epath.Path:
        """Where the arrays of a checkpoint are, for `read_arrays`; step None is the newest.

        Raises:
          CheckpointError: there is no such checkpoint.
        """
        return self.directory / str(self._step(step)) / STATE

    def wait(self) -> None:
        """Returns when everything started is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _step(self, step: int | None) -> int:
        """The step itself if there is such a checkpoint."""
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise CheckpointError(f"there is no checkpoint in {self.directory}")
        if step is not None and step not in steps:
            raise CheckpointError(f"there is no checkpoint {step} in {self.directory}; there are {steps}")
        return steps[-1] if step is None else step


def write_arrays(directory: str | os.PathLike, tree: Any) -> None:
    """Writes a pytree of arrays into a directory of its own, which must not exist yet.

    They come off the devices one by one, and are stored in pieces: a device reads little but its own part, and files
    of that size (2 GB unless told) keep what waits to be written small.
    """
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=PIECE), tree)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(save_device_host_concurrent_gb=1)) as checkpointer:
        arguments = ocp.args.PyTreeSave(tree, save_args, ocdbt_target_data_file_size=PIECE)
        checkpointer.save(absolute(directory), args=arguments)


def read_arrays(directory: str | os.PathLike, target: Any, shardings: Any = None) -> Any:
    """Reads from what `write_arrays` or a run wrote the part that `target` asks for.

    Args:
      directory: of the arrays.
      target: pytree of arrays or `jax.ShapeDtypeStruct`, whose types the arrays are cast to; the directory may hold
        more.
      shardings: pytree like `target` that says where each array shall lie; None puts it where the target's is, else on
        the default device.

    Raises:
      CheckpointError: an array is missing or of another shape.
    """
    directory = absolute(directory)
    if shardings is None:
        here = SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or here, target)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), target, shardings
    )
    if difference := first_difference(_shapes(abstract), array_shapes(directory), partial=True):
        raise CheckpointError(f"{directory} does not fit: {difference}")
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    arguments = ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args, partial_restore=True)
    with _handler() as handler:
        return handler.restore(directory, args=arguments)


def array_shapes(directory: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Shape of every array in a directory, by its dotted path.

    Raises:
      CheckpointError: there are no arrays, or not all of their files.
    """
    directory = absolute(directory)
    try:
        with _handler() as handler:
            return _shapes(handler.metadata(directory).tree)
    except FileNotFoundError as error:
        raise CheckpointError(f"there are no arrays in {directory}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the arrays in {directory} are incomplete or damaged: {error}") from error


def _handler() -> contextlib.closing[ocp.PyTreeCheckpointHandler]:
    """Reads arrays; an `ocp.Checkpointer` around it warns that those in a run's checkpoint are no checkpoint alone."""
    return contextlib.closing(ocp.PyTreeCheckpointHandler())


def first_difference(
    wanted: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]], partial: bool = False
) -> str | None:
    """Names the first array whose shape two trees do not share; `stored` may hold more if `partial`."""
    for name, shape in wanted.items():
        if name not in stored:
            return f"{name} is not in it"
        if stored[name] != shape:
            return f"{name} has shape {stored[name]} in it, but {shape} here"
    surplus = [] if partial else [name for name in stored if name not in wanted]
    return f"{surplus[0]} is in it, but not here" if surplus else None


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
