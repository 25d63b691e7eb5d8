"""Processes that read a dataset ahead. One that dies ends the reading with an error that says how it died.

Grain's own worker processes share their pipe's sending end with the process that reads: of a worker that is killed
while it sends, the reader waits for ever for the rest. Here nobody but a worker holds the sending end of its pipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import multiprocessing.util
import os
import pathlib
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import grain

from pixel_reasoner_jax.child_processes import how_ended
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.sources import media_settings, use_media_settings

SILENCE_SECONDS = 60.0  # how long a worker may send nothing before a warning, and from one warning to the next
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)  # of native code

_ITEM, _ERROR, _END = range(3)  # what a worker sends

_log = logging.getLogger(__name__)


class WorkerError(UserError):
    """A worker process has died; the message says how, and what to do."""


@dataclasses.dataclass(frozen=True)
class Worker:
    """A process that reads, and the receiving end of its pipe; `name` is for messages."""

    name: str
    process: BaseProcess
    receiver: Connection


@dataclasses.dataclass
class _Wait:
    """What the reader waits for: the next item of `worker`, `since` a `time.monotonic()`; None when it does not."""

    worker: Worker | None = None
    since: float = 0.0


class WorkerProcesses(Iterator[Any]):
    """Iterates over the items of a dataset, which processes read; the i-th of n reads every n-th item, from i on.

    Args:
      dataset: can be pickled.
      count: processes.
      threads: reading threads of each.
      ahead: items that each reads ahead.

    Raises:
      WorkerError: at once or while iterating, if a process has died. An exception of the dataset is raised as it is.
    """

    def __init__(self, dataset: grain.MapDataset, count: int, threads: int, ahead: int):
        context = multiprocessing.get_context("spawn")
        self._workers: list[Worker] = []
        self._turn, self._wait = 0, _Wait()
        ended = threading.Event()
        # Also at the exit of this process, before multiprocessing waits for the workers, which ignore its SIGTERM.
        self._end = multiprocessing.util.Finalize(self, _kill, (self._workers, ended), exitpriority=10)
        threading.Thread(target=_warn_of_silence, args=(self._wait, ended), daemon=True).start()
        options, orders = grain.ReadOptions(threads, max(ahead, threads)), []
        for index in range(count):
            (receiver, sender), (order_receiver, order_sender) = (context.Pipe(duplex=False) for _ in range(2))
            process = context.Process(target=_work, args=(sender, order_receiver), daemon=True)
            self._workers.append(Worker(f"data worker {index + 1} of {count}", process, receiver))
            orders.append(order_sender)
            process.start()
            sender.close()
            order_receiver.close()
        # Not among the arguments: multiprocessing writes these into a pipe whose other end this process holds too, and
        # would wait for ever for a worker that died before it read them.
        for index, (worker, order) in enumerate(zip(self._workers, orders, strict=True)):
            with order:
                try:
                    order.send((dataset[index::count], options, media_settings()))
                except OSError:
                    self.close()
                    raise WorkerError(_cause_of_death(worker, count)) from None

    def __next__(self) -> Any:
        worker = self._workers[self._turn]
        self._wait.since, self._wait.worker = time.monotonic(), worker
        try:
            kind, value = worker.receiver.recv()
        except (EOFError, OSError):  # the latter where the pipe ends within an item
            raise WorkerError(_cause_of_death(worker, len(self._workers))) from None
        finally:
            self._wait.worker = None
        if kind == _ERROR:
            raise value
        if kind == _END:
            raise StopIteration
        self._turn = (self._turn + 1) % len(self._workers)
        return value

    def close(self) -> None:
        """Ends the processes. Where another thread waits for an item, it gets a `WorkerError`."""
        self._end()


def _kill(workers: list[Worker], ended: threading.Event) -> None:
    """Ends processes that do nothing but read, whatever state they are in."""
    ended.set()
    for worker in workers:
        with contextlib.suppress(AttributeError):  # it has not been started
            worker.process.kill()
    for worker in workers:
        with contextlib.suppress(AssertionError):
            worker.process.join()


def _cause_of_death(worker: Worker, count: int) -> str:
    """How a process died, and what to do."""
    worker.process.join(5)
    status = worker.process.exitcode
    name = f"{worker.name} (process {worker.process.pid})"
    fewer = f"fewer workers (--config.data.workers, now {count}; 0 reads in threads of the run itself)"
    if status is None:
        return f"{name} has closed its pipe, and has not ended: go on with --resume"
    how = how_ended(status)
    if status >= 0:
        return f"{name} ended with {how}; what it wrote before says why. Go on with --resume once that is mended"
    if -status == signal.SIGKILL:
        reason = ", most likely because the machine has run out of memory"
        return f"{name} was killed by {how}{reason}: go on with --resume, and with {fewer} if it happens again"
    if -status in CRASHES:
        reason = ": a library crashed, most likely on a damaged file or for want of memory"
        return f"{name} died of {how}{reason}. Go on with --resume, and with {fewer} if it happens again"
    return f"{name} was ended by {how}, which somebody sent: go on with --resume"


def _warn_of_silence(wait: _Wait, ended: threading.Event) -> None:
    """Warns, again and again, while a worker that is waited for sends nothing. A stopped one may yet go on."""
    warned = 0.0
    while not ended.wait(SILENCE_SECONDS / 4):
        worker, since, now = wait.worker, wait.since, time.monotonic()
        if worker is None or now - max(since, warned) < SILENCE_SECONDS:
            continue
        warned, pid = now, worker.process.pid
        reason = f"it is stopped, and `kill -CONT {pid}` lets it go on" if _is_stopped(pid) else "is its storage slow?"
        _log.warning("%s (process %s) has sent nothing for %.0f seconds: %s", worker.name, pid, now - since, reason)


def _is_stopped(pid: int | None) -> bool:
    """Whether a process was stopped by a signal, as far as the system tells."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def _work(sender: Connection, order: Connection) -> None:
    """Reads and sends; runs in a worker process, which reads media as the process does that started it."""
    # Signals to the whole group are for the process that reads, which ends its workers when it has saved its state.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        dataset, options, media = order.recv()
        use_media_settings(media, quiet=True)
        for item in dataset.to_iter_dataset(options):
            sender.send((_ITEM, item))
        sender.send((_END, None))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # nobody reads any more
        return
    except Exception as error:
        sender.send((_ERROR, _sendable(error)))


def _sendable(error: Exception) -> Exception:
    """The exception with its traceback as a note; another one that tells the same, if it cannot be pickled."""
    note = f"in a data worker:\n{traceback.format_exc()}"
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class makes of pickling
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error


def _end_with_parent() -> None:
    """Ends a worker process whose parent is killed while it reads."""
    multiprocessing.parent_process().join()
    os._exit(1)
