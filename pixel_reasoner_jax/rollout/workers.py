"""Threads for the host's part of a rollout, which a task that never ends cannot hold up."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Task:
    """A call of a function in a worker thread.

    Attributes:
      future: of its result.
      began: `time.monotonic()` when a thread took it up; None before.
      given_up: nobody waits for it any more.
    """

    def __init__(self, function: Callable, args: tuple[Any, ...]):
        self.function, self.args = function, args
        self.future: Future = Future()
        self.began: float | None = None
        self.given_up = False

    def run(self) -> None:
        """Sets the future, unless it was cancelled before."""
        if not self.future.set_running_or_notify_cancel():
            return
        self.began = time.monotonic()
        try:
            self.future.set_result(self.function(*self.args))
        except BaseException as error:
            self.future.set_exception(error)


class Workers:
    """A pool of `count` threads. They are daemons: unlike an executor's, they do not keep the process from ending."""

    def __init__(self, count: int):
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._count = count
        self._started = 0
        self._lock = threading.Lock()

    def submit(self, function: Callable, *args: Any) -> Task:
        """Has a thread call the function, after what was submitted before."""
        task = Task(function, args)
        self._tasks.put(task)
        if self._started < self._count:
            self._started += 1
            self._start()
        return task

    def give_up(self, task: Task) -> None:
        """Waits no longer for a task; if a thread is stuck in it, another one takes the thread's place."""
        with self._lock:
            if not task.future.cancel() and not task.future.done():
                task.given_up = True
                self._start()

    def close(self) -> None:
        """Ends every thread after the task it is at; tasks that have not begun are cancelled."""
        while not self._tasks.empty():
            with contextlib.suppress(queue.Empty):
                if (task := self._tasks.get_nowait()) is not None:
                    task.future.cancel()
        for _ in range(self._count):
            self._tasks.put(None)

    def _start(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
            with self._lock:
                if task.given_up:  # another thread has this one's place
                    return
            del task  # or its arguments would be kept until the next one comes
