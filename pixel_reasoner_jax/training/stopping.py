"""SIGTERM in a training run: it asks all processes together to save and end where the run can go on bit for bit."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
import numpy as np

from pixel_reasoner_jax.errors import RunStopped
from pixel_reasoner_jax.parallel import all_gather
from pixel_reasoner_jax.signals import stop_at_start


class WaitEnded(RunStopped):
    """SIGTERM has ended a wait for data: what waited saves what is not saved yet, and ends."""


class StopRequest:
    """Whether SIGTERM has come; a context manager that catches it meanwhile, in the main thread.

    Before `begin` a run has nothing to lose: there SIGTERM raises `RunStopped` at once, unless other processes would
    wait for this one.
    """

    def __init__(self):
        self._asked = self._begun = self._waiting = False
        self._previous = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def begin(self) -> None:
        """From here on, SIGTERM waits until it is asked for."""
        self._begun = True

    def asked(self) -> bool:
        """Whether SIGTERM has come to this process."""
        return self._asked

    def agreed(self) -> bool:
        """Whether SIGTERM has come to any process. All processes call this together."""
        return bool(all_gather(np.int32(self._asked)).any())

    @contextlib.contextmanager
    def ending_waits(self) -> Iterator[None]:
        """In the body, which waits for data alone, SIGTERM raises `WaitEnded` at once, unless others would wait too."""
        self._waiting = not jax.distributed.is_initialized()
        try:
            if self._waiting and self._asked:
                raise WaitEnded
            yield
        finally:
            self._waiting = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first, self._asked = not self._asked, True
        if first and not self._begun and not jax.distributed.is_initialized():
            stop_at_start()
        if first and self._waiting:
            self._waiting = False
            raise WaitEnded
