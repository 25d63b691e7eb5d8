"""Ctrl-C ends a command in one line, however often it comes; child processes get neither it nor SIGTERM."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import NoReturn

from pixel_reasoner_jax.errors import RunStopped

INTERRUPTED = 130  # exit status after Ctrl-C
STOPPED = 75  # exit status after SIGTERM of a run that goes on with --resume: EX_TEMPFAIL of sysexits.h

AGAIN_SECONDS = 0.05
CLOSED_LOOP = "Event loop is closed"

_states: list[Callable[[], str]] = []


class Interrupts:
    """Meanwhile, the first Ctrl-C raises KeyboardInterrupt, and the next one ends the process.

    After the first one, nothing but `say` writes: threads that lose what they work with are not worth a traceback. It
    does nothing outside the main thread, where Python delivers no signals.

    Args:
      say: tells the user, given the state of the run (`current_state`), where a second Ctrl-C has ended it.

    Attributes:
      count: how often Ctrl-C came.
      told: whether the user was told already: then a further Ctrl-C ends the process without a word.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self.count, self.told = 0, False
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            previous = signal.signal(signal.SIGINT, self._receive)
            self._restore.callback(signal.signal, signal.SIGINT, previous)
            self._replace(sys, "unraisablehook", functools.partial(self._was_swallowed, sys.unraisablehook))
        return self

    def __exit__(self, *_) -> None:
        self._restore.close()

    def keep(self) -> None:
        """Leaves everything as it is when the context ends: the process ends too."""
        self._restore.pop_all()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self._silence()
            raise KeyboardInterrupt
        if not self.told:
            self._say(current_state())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    def _silence(self) -> None:
        self._replace(threading, "excepthook", lambda _: None)
        self._restore.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)

    def _replace(self, module: ModuleType, name: str, hook: Callable) -> None:
        self._restore.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, hook)

    def _was_swallowed(self, otherwise: Callable, unraisable: sys.UnraisableHookArgs) -> None:
        """Sends the interrupt again where a destructor or a callback of the collector has swallowed it.

        Coroutines and closed loops are the checkpoint library's, which leaves them where it fails, and raises why.
        """
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self.count = 0
            again = threading.Timer(
                AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)
            )  # in here it would be lost too
            again.daemon = True
            again.start()
        elif issubclass(unraisable.exc_type, RunStopped):
            pass  # SIGTERM is remembered, and the run ends where it looks next
        elif not (self.count or inspect.iscoroutine(unraisable.object) or str(unraisable.exc_value) == CLOSED_LOOP):
            otherwise(unraisable)


@contextlib.contextmanager
def telling(state: Callable[[], str]) -> Iterator[None]:
    """While the body runs, `state` says where it is and what is saved, for whom Ctrl-C ends it."""
    _states.append(state)
    try:
        yield
    finally:
        _states.remove(state)


def current_state() -> str:
    """Where the innermost `telling` body is; "" outside of all."""
    return _states[-1]() if _states else ""


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """While the body runs, SIGTERM raises `RunStopped`: a run that has not begun has nothing to save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: stop_at_start())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def stop_at_start() -> NoReturn:
    """Raises what ends a run before it has begun."""
    raise RunStopped("SIGTERM came before the run had begun: nothing new is lost")


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Child processes that this thread starts in the body get neither Ctrl-C nor SIGTERM: their parent ends them.

    Both are sent to all processes of a terminal or a job at once, and children that end first would look like faults.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
