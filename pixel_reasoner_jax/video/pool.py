"""Video decoding that cannot hang or crash the trainer: in child processes, with a deadline and a bound of memory."""

from __future__ import annotations

import array
import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pixel_reasoner_jax import child_processes
from pixel_reasoner_jax.video.index import REENCODE, Frame, VideoError, VideoIndex

WORKERS = min(max(os.cpu_count() or 1, 2), 4)
"""The most child processes of one process: as many videos are decoded at once, each by several threads."""

PIPE_BYTES = 2**20
INDEX_BYTES = 2**28  # of the times of a video's frames: over ten million


class _Lost(Exception):
    """The worker has ended, or has not answered in time; the message says which."""


class _Worker:
    """One process that runs `video.worker`."""

    def __init__(self, memory: int):
        self._requests, theirs = socket.socketpair()
        with theirs:
            self.process = child_processes.start(
                "pixel_reasoner_jax.video.worker", str(memory), stdin=theirs, stdout=subprocess.PIPE, bufsize=0
            )
        self._replies = self.process.stdout
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # beyond what the system allows a user
                fcntl.fcntl(self._replies, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._held = bytearray()
        self._expires = time.monotonic() + child_processes.START_LIMIT

    def ask(self, request: dict[str, Any], descriptor: int) -> None:
        """Sends a request with the descriptor of the video's file."""
        self._expires = time.monotonic() + request["seconds"]
        line = json.dumps(request).encode() + b"\n"
        try:
            sent = socket.send_fds(self._requests, [line], [descriptor])
            self._requests.sendall(line[sent:])
        except OSError:
            pass  # it is gone: `reply` will read an end of file

    def reply(self, most: int = 0) -> tuple[dict[str, Any], bytearray]:
        """One reply and the bytes that come with it, `most` at most.

        Raises:
          _Lost: none came.
        """
        while b"\n" not in self._held:
            self._wait()
            self._held += os.read(self._replies.fileno(), 2**12) or self._lost()
        line, _, self._held = self._held.partition(b"\n")
        reply = json.loads(line)
        if not 0 <= reply["bytes"] <= most:
            raise _Lost("sent the decoder out of step")
        data, filled = bytearray(reply["bytes"]), min(len(self._held), reply["bytes"])
        data[:filled] = self._held[:filled]
        del self._held[:filled]
        with memoryview(data) as view:
            while filled < len(data):
                self._wait()
                filled += os.readv(self._replies.fileno(), [view[filled:]]) or self._lost()
        return reply, data

    def runs(self) -> bool:
        return child_processes.runs(self.process)

    def close(self) -> None:
        child_processes.end(self.process)
        self._replies.close()
        self._requests.close()

    def _wait(self) -> None:
        """Waits until there is something to read."""
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        if not poll.poll(max(self._expires - time.monotonic(), 0) * 1000):
            raise _Lost("took more time to decode than config.media.video_seconds allows")

    def _lost(self) -> int:
        self.process.wait()
        code = self.process.returncode
        if code == -signal.SIGALRM:
            raise _Lost("took more time to decode than config.media.video_seconds allows")
        raise _Lost(f"ended the process that decodes it ({child_processes.how_ended(code)})")


class DecoderPool:
    """Decodes videos in child processes, which start when they are first needed and are kept.

    A child that crashes, hangs or takes too much memory is an error of the video that it was decoding, and another one
    takes its place. The pool is thread-safe; its children end with this process, and a process forked from this one
    starts its own.

    Args:
      memory: bytes of address space of a child.
      workers: the most children.
    """

    def __init__(self, memory: int, workers: int = WORKERS):
        self.memory, self.workers = memory, workers
        self._begin()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._begin)

    def index(self, descriptor: int, max_pixels: int, seconds: float) -> VideoIndex:
        """Finds the frames of a video; the first one at least is decoded.

        Args:
          descriptor: of a file that is open for reading.
          max_pixels: frames with more are refused.
          seconds: by the clock that it may take.

        Raises:
          VideoError: it cannot be read; the message follows its name.
        """
        request = {"max_pixels": max_pixels, "seconds": seconds}
        with self._worker() as worker:
            worker.ask(request, descriptor)
            reply, data = worker.reply(INDEX_BYTES)
        _check(reply)
        numbers = array.array("q", data)
        count = reply["times"]
        return VideoIndex(numbers[:count], numbers[count:], reply["tick"], reply["rate"], tuple(reply["size"]))

    def read(
        self, descriptor: int, wanted: Sequence[tuple[int, int, int | None]], max_pixels: int, seconds: float
    ) -> Iterator[Frame]:
        """Decodes frames; arguments and errors as of `index`.

        Args:
          wanted: of every frame, ascending: its number, its time in ticks, and that of the key frame before it; None
            where decoding begins with the first frame.
        """
        request = {"max_pixels": max_pixels, "seconds": seconds, "wanted": wanted}
        with self._worker() as worker:
            worker.ask(request, descriptor)
            while "size" in (answer := worker.reply(3 * max_pixels))[0]:
                reply, pixels = answer
                yield Frame(tuple(reply["size"]), reply["rotation"], pixels)
        _check(answer[0])

    def close(self) -> None:
        """Ends the children that decode nothing; the pool can be used again afterwards."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _begin(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(self.workers)

    @contextlib.contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """A child for one request. It is kept if that ends well, and ended otherwise."""
        with self._places:
            worker = self._take()
            try:
                yield worker
            except BaseException as error:
                worker.close()
                if isinstance(error, _Lost):
                    raise VideoError(f"{error}: {REENCODE}") from None
                raise
            with self._lock:
                self._idle.append(worker)

    def _take(self) -> _Worker:
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._start()
            if worker.runs():
                return worker
            worker.close()

    def _start(self) -> _Worker:
        worker = _Worker(self.memory)
        try:
            worker.reply()
        except BaseException as error:
            worker.close()
            if isinstance(error, _Lost):
                command = " ".join(worker.process.args)
                raise RuntimeError(f"the video decoder does not start: run `{command}` to see why") from error
            raise
        return worker


_shared: DecoderPool | None = None
_shared_lock = threading.Lock()


def decoders(memory: int) -> DecoderPool:
    """The pool of this process, whose children may take so many bytes each."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared.memory != memory:
            if _shared is not None:
                _shared.close()
            _shared = DecoderPool(memory)
        return _shared


def _check(reply: dict[str, Any]) -> None:
    if "problem" in reply:
        raise VideoError(reply["problem"])
