"""Metrics of a run: one JSON line a step, what trackers are told, and a progress bar in a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import rich.console
import rich.progress

from pixel_reasoner_jax.files import as_path, check_output, is_remote, output_directory, upload, write_text
from pixel_reasoner_jax.trackers import TrackedRun, Trackers

FILE = "metrics.jsonl"
UPLOAD_SECONDS = 60.0

_log = logging.getLogger(__name__)


class MetricWriter:
    """Appends the metrics of every step to `metrics.jsonl`, and tells trackers of them.

    Lines are flushed as they are written. In an object store nothing can be appended to a file, so the files are copied
    there once a minute, and by `flush`. A run that goes on from a checkpoint drops the lines after that checkpoint's
    step, so that every step has one line.

    Args:
      directory: made if missing.
      step: the last step whose line is kept; 0 keeps none.
      names: of the trackers, see `trackers`.
      name: what they call the run; None: the directory's.
      config: the run's settings, in types that JSON has, for them.

    Attributes:
      trackers: may be told more, such as samples.

    Raises:
      UserError: the file cannot be written, as where a folder has its name; or there is no tracker of a name.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        step: int = 0,
        names: Sequence[str] = ("tensorboard",),
        name: str | None = None,
        config: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._directory = as_path(directory)
        path = self._directory / FILE
        check_output(path)
        kept = [line for line in read_metrics(path) if line["step"] <= step] if step and path.exists() else []
        self._end = contextlib.ExitStack()
        self._local = self._end.enter_context(output_directory(directory))
        # Replaced atomically: a run that is killed here still has its metrics.
        path = write_text(self._local / FILE, "".join(json.dumps(line) + "\n" for line in kept))
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        name = self._directory.name if name is None else name
        self.trackers = Trackers(names, TrackedRun(name, self._directory, self._local, config, step))
        self._uploaded = time.monotonic()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of one step, Python or array scalars; a number that is not finite becomes null."""
        values = {name: float(value) for name, value in metrics.items() if value is not None}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        self.trackers.tell("figures", step, values)
        if time.monotonic() - self._uploaded > UPLOAD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Copies all lines, and what trackers have written so far, to the object store, if the directory is in one."""
        if is_remote(self._directory):
            self.trackers.tell("flush")
            upload(self._local, self._directory)
        self._uploaded = time.monotonic()

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # each of them, also where a full disk lets none of them end well
            closing.callback(self._end.close)
            closing.callback(self.trackers.close)
            closing.callback(self._lines.close)

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a `metrics.jsonl`, or the one in a directory.

    An incomplete last line, of a killed run, is left out, and so are damaged lines, which a warning counts.
    """
    path = as_path(path)
    file = path / FILE if path.is_dir() else path
    complete, _, _ = file.read_bytes().rpartition(b"\n")
    lines = complete.split(b"\n") if complete else []
    metrics = [_metrics_of(line) for line in lines]
    if damaged := [number for number, line in enumerate(metrics, 1) if line is None]:
        many = f"{len(damaged)} lines are" if len(damaged) > 1 else "a line is"
        _log.warning("%s: %s damaged and left out, the first is line %d", file, many, damaged[0])
    return [line for line in metrics if line is not None]


def _metrics_of(line: bytes) -> dict[str, Any] | None:
    """The metrics of a line; None for a damaged one."""
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(metrics, dict) and type(metrics.get("step")) is int
    return metrics if whole else None


class Progress:
    """Shows how far a run is: a bar in a terminal; otherwise a line at the start and every `interval` seconds.

    Args:
      description: names the work.
      total: steps in all.
      step: steps already done.
      interval: seconds between lines, if there is no terminal. `update` and `note` count them apart, so that no line of
        a finished step is missing because the step was told of while it ran.
      file: where it is shown; standard error by default, so that standard output holds results alone.
      quiet: show nothing.
    """

    def __init__(
        self,
        description: str,
        total: int,
        step: int = 0,
        interval: float = 30.0,
        file: Any = None,
        quiet: bool = False,
    ):
        self._description, self._total, self._interval = description, total, interval
        self._console = rich.console.Console(file=file or sys.stderr, highlight=False, soft_wrap=True, quiet=quiet)
        self._shown = self._noted = time.monotonic()
        self._step = step
        self._bar = None
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.fields[figures]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(description, total=total, completed=step, figures="")
            self._bar.start()
        else:
            self._line(step)

    def update(self, step: int, **figures: float) -> None:
        """Shows that `step` steps are done, with a few figures."""
        self._step = step
        text = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=text)
        elif time.monotonic() - self._shown >= self._interval or step == self._total:
            self._shown = time.monotonic()
            self._line(step, text)

    def note(self, text: str) -> None:
        """Shows how far the step that runs is, until the next `update` or `note`."""
        if self._bar is not None:
            self._bar.update(self._task, figures=text)
        elif time.monotonic() - max(self._shown, self._noted) >= self._interval:
            self._noted = time.monotonic()
            self._line(self._step, text)

    def _line(self, step: int, text: str = "") -> None:
        self._console.print(f"{self._description}: {step}/{self._total}  {text}".rstrip(), markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.close()
