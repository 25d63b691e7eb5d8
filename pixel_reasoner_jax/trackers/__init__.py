"""Where the figures of a run go besides `metrics.jsonl`: trackers by name, none of which can end a run."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.named_parts import find_part
from pixel_reasoner_jax.trackers.following import END_SECONDS, Follower
from pixel_reasoner_jax.trackers.tensorboard import TensorBoard
from pixel_reasoner_jax.trackers.tracker import TrackedRun, TrackedSample, Tracker
from pixel_reasoner_jax.trackers.weights_and_biases import WeightsAndBiases

__all__ = ["TRACKERS", "TrackedRun", "TrackedSample", "Tracker", "Trackers", "find_trackers"]

TRACKERS: Mapping[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def find_trackers(names: Sequence[str]) -> dict[str, Any]:
    """What makes the trackers of these names.

    Raises:
      UserError: there is no such tracker, or what it needs is not installed.
    """
    found = {name: find_part(name, TRACKERS, "tracker", "module:Class") for name in names}
    for make in found.values():
        if hasattr(make, "check"):
            make.check()
    return found


class Trackers:
    """Some trackers of a run, told together, which wait for none of them; see `Tracker`.

    Args:
      names: of the trackers.
      run: that they follow.

    Raises:
      UserError: see `find_trackers`.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun):
        self._followers = [Follower(name, make, run) for name, make in find_trackers(names).items()]

    def __bool__(self) -> bool:
        return not all(follower.is_left_out for follower in self._followers)

    def tell(self, method: str, *arguments: Any) -> None:
        """Has a method of `Tracker` called of each of them, which get a mapping and a list of their own."""
        for follower in self._followers:
            if not follower.is_left_out:
                follower.tell(method, *map(copy.copy, arguments))

    def close(self) -> None:
        """Ends them, and waits for that no longer than `END_SECONDS`."""
        self.tell("close")
        deadline = time.monotonic() + END_SECONDS
        for follower in self._followers:
            follower.join(deadline)
