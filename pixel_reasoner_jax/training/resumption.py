"""Which checkpoint a run goes on from: the newest whole one, or the one that the user names."""

from __future__ import annotations

import sys

import jax
from etils import epath

from pixel_reasoner_jax.checkpoint import Checkpoints, find_unlisted, set_aside
from pixel_reasoner_jax.errors import CheckpointError
from pixel_reasoner_jax.parallel import all_gather_json, is_main, wait_for_all


def set_aside_unlisted(directory: epath.Path) -> None:
    """Sets checkpoints aside that keep all of them from being listed. All processes call this together."""
    if is_main() and (damaged := find_unlisted(directory)):
        _say_set_aside(set_aside(directory, damaged), sorted(damaged), damaged)
    wait_for_all("list checkpoints")


def choose_step(checkpoints: Checkpoints, resume: bool | int) -> int:
    """Compares checkpoints with their checksums, the newest first, until one is whole.

    Those after it are set aside, and named on standard error: the run will save other ones of their steps. All
    processes call this together, each looks at its share of the files.

    Args:
      checkpoints: of the run.
      resume: True, or the step of the only checkpoint that will do.

    Returns:
      The step of the checkpoint to go on from; 0 if the run has none yet.

    Raises:
      CheckpointError: there is no such checkpoint, or none is whole.
    """
    steps = all_gather_json(checkpoints.steps)[0]  # one process may see a folder sooner than another one
    wanted = steps[::-1] if resume is True else [resume]
    damaged: dict[int, str] = {}
    for step in wanted:
        if step not in steps:
            there = f"there are {', '.join(map(str, steps))}" if steps else "there is none"
            raise CheckpointError(f"there is no checkpoint of step {step} in {checkpoints.directory}: {there}")
        found = all_gather_json(checkpoints.find_damage(step, jax.process_index(), jax.process_count()))
        damage = next(filter(None, found), None)
        if damage is None:
            _set_aside(checkpoints, [later for later in steps if later > step], damaged)
            return step
        damaged[step] = damage
    if not damaged:
        return 0
    which = "; ".join(f"step {step}: {damage}" for step, damage in damaged.items())
    others = [step for step in steps if step not in damaged]
    if others:
        advice = f"go on from another one with --resume-from STEP: {', '.join(map(str, others))}"
    else:
        advice = "give back what was lost, or start a new run with --config.workdir=DIRECTORY"
    raise CheckpointError(f"no checkpoint in {checkpoints.directory} to go on from is whole ({which}): {advice}")


def _set_aside(checkpoints: Checkpoints, later: list[int], damaged: dict[int, str]) -> None:
    if not later:
        return
    if is_main():
        _say_set_aside(set_aside(checkpoints.directory, later), later, damaged)
    wait_for_all("set aside")
    checkpoints.reload()


def _say_set_aside(folder: epath.Path, steps: list[int], damaged: dict[int, str]) -> None:
    for step in steps:
        why = f"is damaged ({damaged[step]})" if step in damaged else "is later than the one to go on from"
        print(f"warning: checkpoint {step} {why}; it was moved to {folder / str(step)}", file=sys.stderr)
