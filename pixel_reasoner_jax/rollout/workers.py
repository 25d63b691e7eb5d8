"""Threads for the host's part of a rollout; a task that never ends does not block the tasks after it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Task:
    """A call of a function in a worker thread.

    Attributes:
      future: holds the result of the call.
      began: `time.monotonic()` when a thread began the call; None before.
      given_up: whether nobody waits for it any more.
    """

    def __init__(self, function: Callable, args: tuple[Any, ...]):
        self.function, self.args = function, args
        self.future: Future = Future()
        self.began: float | None = None
        self.given_up = False

    def run(self) -> None:
        """Calls the function and sets the future to its result, unless the future was cancelled before."""
        if not self.future.set_running_or_notify_cancel():
            return
        self.began = time.monotonic()
        try:
            self.future.set_result(self.function(*self.args))
        except BaseException as error:
            self.future.set_exception(error)
        del self.function, self.args  # who holds the task for its result need not hold what it was made of


class Workers:
    """A pool of `count` daemon threads: unlike those of an executor, they do not keep the process from ending.

    They end when the pool is closed, or when nobody holds it any more.
    """

    def __init__(self, count: int):
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._count = count
        self._started = 0
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end, self._tasks, count)

    def submit(self, function: Callable, *args: Any) -> Task:
        """Queues a call of the function; the threads take calls in the order in which they were submitted."""
        task = Task(function, args)
        self._tasks.put(task)
        if self._started < self._count:
            self._started += 1
            self._start()
        return task

    def give_up(self, task: Task) -> None:
        """Abandons a task: cancels it if it has not begun, else starts a thread to replace the one that runs it."""
        with self._lock:
            if not task.future.cancel() and not task.future.done():
                task.given_up = True
                self._start()

    def close(self) -> None:
        """Cancels the tasks that have not begun; every thread ends after its present task."""
        self._end()

    def _start(self) -> None:
        threading.Thread(target=_work, args=(self._tasks, self._lock), daemon=True).start()


def _work(tasks: queue.SimpleQueue[Task | None], lock: threading.Lock) -> None:
    """What a thread does. It does not hold the pool, which may so be collected while threads wait for tasks."""
    while (task := tasks.get()) is not None:
        task.run()
        with lock:
            if task.given_up:  # another thread has replaced this one
                return
        del task  # or its result would stay in memory until the next task


def _end(tasks: queue.SimpleQueue[Task | None], count: int) -> None:
    """Cancels the tasks that have not begun, and ends `count` threads after their present task."""
    while not tasks.empty():
        with contextlib.suppress(queue.Empty):
            if (task := tasks.get_nowait()) is not None:
                task.future.cancel()
    for _ in range(count):
        tasks.put(None)
