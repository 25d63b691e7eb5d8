"""Where the figures of a run go besides `metrics.jsonl`: trackers by name, none of which can end a run."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import RunStopped, UserError
from pixel_reasoner_jax.named_parts import find_part
from pixel_reasoner_jax.trackers.tensorboard import TensorBoard
from pixel_reasoner_jax.trackers.tracker import TrackedRun, TrackedSample, Tracker
from pixel_reasoner_jax.trackers.weights_and_biases import WeightsAndBiases

__all__ = ["TRACKERS", "TrackedRun", "TrackedSample", "Tracker", "Trackers", "find_trackers"]

TRACKERS: Mapping[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
FAILURES = 3  # in a row, after which a tracker is left out
LINE = 300  # characters of an error that the log shows

_log = logging.getLogger(__name__)


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
    """Some trackers of a run, told together. What one of them raises is named in the log; see `Tracker`.

    Args:
      names: of the trackers.
      run: that they follow.

    Raises:
      UserError: see `find_trackers`.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun):
        self._trackers: dict[str, Any] = {}
        self._failed: dict[str, int] = {}
        for name, make in find_trackers(names).items():
            try:
                self._trackers[name] = make(run)
            except (RunStopped, KeyboardInterrupt):
                raise
            except (Exception, SystemExit) as error:
                _log.warning("tracker %r has not begun and is left out: %s", name, _shown(error))

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def tell(self, method: str, *arguments: Any) -> None:
        """Calls a method of `Tracker` of each of them, which get a mapping and a list of their own."""
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, method)(*map(copy.copy, arguments))
            except (RunStopped, KeyboardInterrupt):
                raise
            except (Exception, SystemExit) as error:
                self._failed[name] = self._failed.get(name, 0) + 1
                _log.warning("tracker %r has failed (%s): %s", name, method, _shown(error))
                if self._failed[name] >= FAILURES:
                    del self._trackers[name]
                    _log.warning("tracker %r is left out from here on, after %d failures in a row", name, FAILURES)
            else:
                self._failed[name] = 0


def _shown(error: BaseException) -> str:
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:LINE]
