"""Checkpoints of a run: the training state as arrays, and as JSON all else that the run needs to go on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from pixel_reasoner_jax import digests
from pixel_reasoner_jax.arrays import array_shapes, first_difference, shapes_of
from pixel_reasoner_jax.errors import CheckpointError
from pixel_reasoner_jax.files import absolute, as_path

STATE, META = "state", "meta"
CHECKPOINTS = "checkpoints"  # folder in a run's directory
DESCRIPTION = "_CHECKPOINT_METADATA"  # Orbax's file in each checkpoint
SET_ASIDE = "checkpoints_set_aside"  # beside it, for those that a run does not go on from

_log = logging.getLogger(__name__)
# An error that Orbax raises is not logged as well: by its threads, and for each array that was written at that time.
# What it misses in a folder, `find_damage` says.
logging.getLogger("absl").addFilter(
    lambda record: not ("orbax" in record.pathname and (record.exc_info or "Metadata file" in record.getMessage()))
)
logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())


class Checkpoints:
    """The newest `keep` checkpoints of one run.

    Saving copies the arrays from the devices and writes them in the background; the training loop may donate its state
    to the next update at once. A checkpoint appears under its step only when it is complete: one whose writing was
    interrupted is never found, and its remains are removed when the run goes on. It holds the checksums of its files
    (`digests`), with which they are compared before it is read.

    Args:
      directory: made if missing.
      keep: how many checkpoints are kept; older ones are deleted.
      read_only: change nothing, for example while a run is writing a checkpoint.

    Attributes:
      kept: the steps of checkpoints that are kept besides, however old they are; change it in place.

    Raises:
      CheckpointError: what describes one of them is damaged, so that there is no list of them.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3, read_only: bool = False):
        self.directory = epath.Path(absolute(directory))
        self.kept: set[int] = set()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAnd(keep, self.kept),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._add_digests),
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise CheckpointError(
                f"the checkpoints in {self.directory} cannot be listed ({reason}): move the damaged one elsewhere"
            ) from error
        self._saving: int | None = None
        self._whole: set[int] = set()  # steps whose files were compared with their checksums

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
        self.wait()
        self._saving = step
        self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)

    @property
    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def steps_on_disk(self) -> list[int]:
        """Like `steps`, but asks the disk: also where the writing of a checkpoint has failed."""
        return sorted(ocp.utils.checkpoint_steps(self.directory))

    def find_damage(self, step: int, share: int = 0, shares: int = 1) -> str | None:
        """Says what is damaged in a checkpoint, a file and how; None for a whole one.

        Args:
          step: of the checkpoint.
          share, shares: one process of several compares its share of the files.
        """
        directory = self.directory / str(step)
        missing = [name for name in (STATE, META) if not (directory / name).is_dir()]
        if missing:
            return f"{missing[0]} is missing"
        try:
            damage = digests.find_damage(directory, str(step), share, shares)
        except FileNotFoundError:  # of an earlier version
            damage = self._find_obvious_damage(directory)
            if damage is None:
                _log.warning("checkpoint %d in %s has no checksums: it is read as it is", step, self.directory)
        except OSError as error:
            damage = f"{digests.FILE} cannot be read: {error.strerror or error}"
        if damage is None:
            self._whole.add(step)
        return damage

    def _find_obvious_damage(self, directory: epath.Path) -> str | None:
        """Says what is damaged in a checkpoint without checksums as far as can be seen without its arrays."""
        if not any((directory / META).iterdir()):
            return f"{META} is empty"
        try:
            array_shapes(directory / STATE)
        except CheckpointError as error:
            return str(error)
        return None

    def reload(self) -> None:
        """Looks again at which checkpoints there are."""
        self._manager.reload()

    def restore(self, target: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
          target: pytree like the one saved, of arrays or `jax.ShapeDtypeStruct`, with the types and the shardings that
            the arrays get; these need not be those that the arrays were saved with.
          step: of the checkpoint; None for the newest.

        Returns:
          The state, and the `meta` saved with it.

        Raises:
          CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the target.
        """
        step = self._step(step)
        self.check(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        if difference := first_difference(shapes_of(abstract), array_shapes(self.state_directory(step))):
            raise CheckpointError(f"checkpoint {step} in {self.directory} does not fit this run: {difference}")
        arguments = {STATE: ocp.args.StandardRestore(abstract), META: ocp.args.JsonRestore()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        except (ValueError, TypeError, LookupError, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(f"checkpoint {step} in {self.directory} cannot be read: {reason[:200]}") from error
        return restored[STATE], restored[META]

    def check(self, step: int | None = None) -> None:
        """Compares a checkpoint with its checksums, unless that was done; step None is the newest.

        Raises:
          CheckpointError: there is no such checkpoint, or it is damaged; the message names the others.
        """
        step = self._step(step)
        if step not in self._whole and (damage := self.find_damage(step)):
            others = [other for other in self.steps if other != step]
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} is damaged: {damage}; other checkpoints: {others or 'none'}"
            )

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

    def _add_digests(self) -> None:
        """Orbax calls it, in one process, when all files of a checkpoint are written, and before they can be seen."""
        temporary = self.directory / f"{self._saving}{ocp.utils.TMP_DIR_SUFFIX}"
        directory = temporary if temporary.exists() else self.directory / str(self._saving)
        digests.write_digests(directory, str(self._saving))

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


class _NewestAnd(preservation_policy.PreservationPolicy):
    """Keeps the newest checkpoints, and those of some steps."""

    def __init__(self, newest: int, steps: set[int]):
        self._newest, self._steps = newest, steps

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        first = len(checkpoints) - self._newest
        return [number >= first or one.step in self._steps for number, one in enumerate(checkpoints)]


def set_aside(directory: str | os.PathLike, steps: Iterable[int]) -> epath.Path:
    """Moves checkpoints out of a run's way, into a folder beside its others; returns that folder.

    One process does it; all call `Checkpoints.reload` afterwards, those that have the checkpoints open.

    Args:
      directory: of the checkpoints.
      steps: of those that are moved.
    """
    directory = epath.Path(absolute(directory))
    folder = directory.parent / SET_ASIDE
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        target = folder / str(step)
        if target.exists():
            target.rmtree()
        (directory / str(step)).rename(target)
    return folder


def find_unlisted(directory: str | os.PathLike) -> dict[int, str]:
    """Checkpoints beside which Orbax lists none, since the file that describes them is damaged: what is, by step."""
    directory = epath.Path(absolute(directory))
    found: dict[int, str] = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name.isdecimal() and path.is_dir():
            try:
                damage = digests.find_damage(path, path.name, only=DESCRIPTION)
            except OSError:  # without checksums, or none that can be read: `Checkpoints.find_damage` says more
                continue
            if damage is not None and damage.startswith(DESCRIPTION):
                found[int(path.name)] = damage
    return found


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
