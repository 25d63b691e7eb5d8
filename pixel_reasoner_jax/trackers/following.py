"""A thread for each tracker of a run: one that fails, is slow or hangs holds nothing up, and loses only its figures."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.trackers.tracker import TrackedRun, Tracker

WAITING = {"figures": 256, "samples": 2, "alarm": 64, "flush": 1, "close": 1}  # the most that wait; samples have images
END_SECONDS = 30.0  # that the trackers of a run have in all to end
FAILURES = 3  # in a row, after which a tracker is left out
LINE = 300  # characters of an error that the log shows

_log = logging.getLogger(__name__)


class Follower:
    """Makes a tracker and calls its methods, one after the other, in a thread of its own.

    Args:
      name: of the tracker, for the log.
      make: the tracker from the run, as `Tracker` does.
      run: that is followed.

    Attributes:
      is_left_out: whether the tracker has ended, or has failed too often, so that it takes no more.
    """

    def __init__(self, name: str, make: Callable[[TrackedRun], Tracker], run: TrackedRun):
        self.is_left_out = False
        self._name, self._lost = name, False
        self._told: collections.deque[tuple[str, tuple[Any, ...]]] = collections.deque()
        self._waiting: collections.Counter[str] = collections.Counter()  # of `_told`, by method
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._follow, args=(make, run), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def tell(self, method: str, *arguments: Any) -> None:
        """Lets a method of the tracker be called when those before it have been; what has no room is lost to it."""
        with self._changed:
            if self._waiting[method] < WAITING[method]:
                self._waiting[method] += 1
                self._told.append((method, arguments))
                self._changed.notify()
                return
        if not self._lost and method != "flush":  # one that waits is as good as two
            self._lost = True
            _log.warning("tracker %r does not keep up: it has lost %s, and may lose more", self._name, method)

    def join(self, deadline: float) -> None:
        """Waits for the end of a tracker that was told to close; `deadline` is of `time.monotonic`."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            _log.warning("tracker %r has not ended in time: what it has not written yet is lost", self._name)

    def _follow(self, make: Callable[[TrackedRun], Tracker], run: TrackedRun) -> None:
        try:
            tracker = make(run)
        except BaseException as error:  # whatever it is, it is the tracker's alone
            _log.warning("tracker %r has not begun and is left out: %s", self._name, _shown(error))
            self.is_left_out = True
        failures, method = 0, ""
        while not self.is_left_out:
            with self._changed:
                self._changed.wait_for(lambda: self._told)
                method, arguments = self._told.popleft()
                self._waiting[method] -= 1
            try:
                getattr(tracker, method)(*arguments)
                failures = 0
            except BaseException as error:
                failures += 1
                _log.warning("tracker %r has failed (%s): %s", self._name, method, _shown(error))
                if failures == FAILURES and method != "close":
                    text = "tracker %r is left out from here on, after %d failures in a row"
                    _log.warning(text, self._name, FAILURES)
            self.is_left_out = failures == FAILURES or method == "close"
        self._told.clear()


def _shown(error: BaseException) -> str:
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:LINE]
