"""The process that decodes videos for `DecoderPool`.

It reads requests, a line of JSON each with the descriptor of the video's file, from the socket that is its standard
input, and writes replies: a line of JSON, then so many bytes as it says.

    {"max_pixels", "seconds"}               -> {"tick", "rate", "size", "times": N, "keys": N}, both as int64
    {"max_pixels", "seconds", "wanted"}     -> {"size", "rotation"} and RGB pixels, for every frame; then {"end"}
    a video that cannot be read             -> {"problem"}

It ends with its parent, whose end closes the socket, and at the latest by the alarm of its last request.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from pixel_reasoner_jax.video.index import VideoError

KILL_SECONDS = 2  # after the deadline, by which the parent has given up, until the system ends the process


def main() -> None:
    memory = int(sys.argv[1])
    requests = socket.socket(fileno=os.dup(0))
    # Libraries may print; only replies may reach the parent.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    with contextlib.suppress(OSError):  # where memory runs out, this process goes, not the trainer
        pathlib.Path("/proc/self/oom_score_adj").write_text("800")
    open_video = load_reader()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def answer(request: dict, descriptor: int) -> Iterator[tuple[dict, bytes]]:
        reader = open_video(descriptor, request["max_pixels"])
        try:
            if "wanted" not in request:
                index = reader.index()
                sizes = {"times": len(index.times), "keys": len(index.keys)}
                yield (
                    {"tick": index.tick, "rate": index.rate, "size": index.size, **sizes},
                    index.times.tobytes() + index.keys.tobytes(),
                )
                return
            for frame in reader.read(request["wanted"]):
                yield {"size": frame.size, "rotation": frame.rotation}, frame.pixels
            yield {"end": True}, b""
        finally:
            reader.close()

    send(replies, {"ready": True})
    while (received := receive(requests)) is not None:
        request, descriptor = received
        signal.alarm(math.ceil(request["seconds"]) + KILL_SECONDS)
        try:
            for reply, data in answer(request, descriptor):
                send(replies, reply, data)
        except VideoError as error:
            send(replies, {"problem": str(error)})
        except MemoryError:
            send(replies, {"problem": f"takes more than {memory / 2**30:.1f} GiB to decode: config.media.video_memory"})
        except OSError as error:
            send(replies, {"problem": f"cannot be read ({error.strerror})"})
        finally:
            os.close(descriptor)
            signal.alarm(0)


def load_reader() -> Callable[[int, int], Any]:
    """PyAV's reader, or where it is not installed that of decord."""
    try:
        import av
    except ImportError:
        from pixel_reasoner_jax.video.decord_reader import DecordReader

        return DecordReader
    from pixel_reasoner_jax.video.reader import VideoReader

    av.logging.set_level(None)
    return VideoReader


def receive(requests: socket.socket) -> tuple[dict, int] | None:
    """The next request and the descriptor that came with it; None when the parent is gone."""
    data, descriptors, _, _ = socket.recv_fds(requests, 2**16, 1)
    while data and not data.endswith(b"\n"):
        data += requests.recv(2**16)
    return (json.loads(data), descriptors[0]) if data else None


def send(replies: BinaryIO, reply: dict, data: bytes | memoryview = b"") -> None:
    replies.write(json.dumps({**reply, "bytes": len(data)}).encode() + b"\n")
    replies.write(data)
    replies.flush()


if __name__ == "__main__":
    main()
