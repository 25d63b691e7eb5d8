"""Synthesizes in processes that are killed, again and again, until one comes to its end.

    python killed.py JSONL OUT WORKERS WHEN COUNT

WHEN is "writes" to kill a process before and after it puts any file in its place or removes one, once each; or a number
of milliseconds after which each is killed, that grows by three tenths.
Prints how many were killed.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import time

from data_pipeline.sources import open_source
from data_pipeline.synthesis import BudgetMediaLoader, TemplateCaptioner
from data_pipeline.synthesis.synthesis import Synthesis, SynthesisSettings


def settings(path: str, count: int = 12) -> SynthesisSettings:
    return SynthesisSettings({path: open_source(f"table:{path}")}, count=count, seed=3, shard_size=8)


def synthesize(path: str, out: str, workers: int, count: int = 12) -> None:
    Synthesis(settings(path, count), TemplateCaptioner, BudgetMediaLoader(), out, workers).run()


def deadly(function, marks: pathlib.Path):
    """The function, but the first call for a file kills the process before it, and the second one after it.

    Temporary files have other names each time: they are left alone.
    """

    def call(*args, **kwargs):
        file = pathlib.Path(os.fspath(args[1] if len(args) > 1 else args[0])).name
        for moment in ("before", "after"):
            mark = marks / f"{function.__name__} {file} {moment}"
            if moment == "after":
                function(*args, **kwargs)
            if "." in file[1:] and file[0] != "." and not file.startswith("tmp") and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    return call


def child(path: str, out: str, workers: int, marks: pathlib.Path | None, count: int) -> int:
    """Its process number; it ends with status 0 or by a kill."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if marks is not None:
            os.replace, os.unlink = deadly(os.replace, marks), deadly(os.unlink, marks)
        synthesize(path, out, workers, count)
        status = 0
    finally:
        os._exit(status)


def main(path: str, out: str, workers: str, when: str, count: str) -> None:
    killed, marks = 0, pathlib.Path(f"{out}.marks")
    marks.mkdir()
    while True:
        pid = child(path, out, int(workers), marks if when == "writes" else None, int(count))
        if when != "writes":
            time.sleep(float(when) / 1000 * 1.3**killed)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        killed += 1
        assert killed < 100, "it comes to no end"
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
