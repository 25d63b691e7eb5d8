"""Figures of a run: one JSON line a step, TensorBoard, and a progress bar in a terminal."""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.progress
from tensorboardX import SummaryWriter

FILE = "metrics.jsonl"


class MetricWriter:
    """Appends the figures of every step to `metrics.jsonl` and to TensorBoard events beside it.

    Lines are flushed as they are written. A run that goes on from a checkpoint drops what it had written after that
    checkpoint's step, so that every step stands there once.

    Args:
      directory: made if missing.
      step: the last step that stays; 0 starts anew.
    """

    def __init__(self, directory: str | os.PathLike, step: int = 0):
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / FILE
        kept = [line for line in read_metrics(path) if line["step"] <= step] if path.exists() else []
        # Replaced in one move: killed here, the run still has its figures.
        remains = path.with_suffix(".tmp")
        remains.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        remains.replace(path)
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._events = SummaryWriter(str(directory), purge_step=step + 1 if step else None, write_to_disk=True)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the figures of one step, Python or array scalars; what is not finite becomes null."""
        values = {name: float(value) for name, value in metrics.items() if value is not None}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._lines.close()
        self._events.close()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, or of the one in a directory; a last line cut short by a kill is left out."""
    path = pathlib.Path(path)
    text = (path / FILE if path.is_dir() else path).read_text(encoding="utf-8")
    whole, _, _ = text.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


class Progress:
    """Shows how far a run is: a bar in a terminal, elsewhere a line every `interval` seconds.

    Args:
      description: what is being done.
      total: steps in all.
      step: steps already done.
      interval: seconds between lines where there is no terminal.
      file: standard error by default, so that output stays clean.
    """

    def __init__(self, description: str, total: int, step: int = 0, interval: float = 30.0, file: Any = None):
        self._description, self._total, self._interval = description, total, interval
        self._console = rich.console.Console(file=file or sys.stderr, highlight=False, soft_wrap=True)
        self._shown = time.monotonic()
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

    def update(self, step: int, **figures: float) -> None:
        """Says that `step` steps are done, with a few figures to show."""
        text = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=text)
        elif time.monotonic() - self._shown >= self._interval or step == self._total:
            self._shown = time.monotonic()
            self._console.print(f"{self._description}: {step}/{self._total}  {text}", markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.close()
