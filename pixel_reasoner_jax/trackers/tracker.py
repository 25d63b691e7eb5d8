"""What a tracker is told of a run; one's own derives from `Tracker` and is named in the config as `module:Class`."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

SIDE, COLUMNS, GAP = 256, 4, 4  # of a sheet: the most pixels of an image's sides, images in a row, pixels between them


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker follows.

    Attributes:
      name: what people call it.
      workdir: its directory, which may be in an object store.
      directory: a folder of this machine for the tracker's files, which are copied to `workdir` if that is another one.
      config: the resolved settings, in types that JSON has.
      step: the step that the run goes on after; 0 for one that begins.
    """

    name: str
    workdir: Any
    directory: pathlib.Path
    config: Mapping[str, Any]
    step: int = 0


@dataclasses.dataclass(frozen=True)
class TrackedSample:
    """A response to be read. Its texts were written by models and data: they are shown, and never taken for markup.

    Attributes:
      query_id, sample: which response to which query.
      question, reference: of the query, as texts.
      text: the conversation from the first response on, with "<image>" where one was shown.
      figures: reward, advantage and the terms of the reward, by name.
      images: those of the conversation in order, first the query's, then crops and frames.
    """

    query_id: str
    sample: int
    question: str
    reference: str
    text: str
    figures: Mapping[str, float]
    images: Sequence[Image.Image]


class Tracker:
    """Follows a run; each method may be left out.

    It is made, and its methods are called one after the other, in a thread of its own of the run's main process. What
    they raise is named in the log and ends nothing; after some failures in a row the tracker is left out. One that does
    not keep up loses what has no room to wait, and what it has not written some time after the run has ended.

    Args:
      run: that is followed.
    """

    def __init__(self, run: TrackedRun):
        self.run = run

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the metrics of a step, some of which may be NaN or infinite."""

    def samples(self, step: int, samples: Sequence[TrackedSample]) -> None:
        """Takes some responses of a step, before its metrics."""

    def alarm(self, step: int, name: str, text: str) -> None:
        """Takes an alarm that begins to sound; the text says what is wrong and what to try."""

    def flush(self) -> None:
        """Writes what waits to be written."""

    def close(self) -> None:
        """Ends: the run has ended, in whichever way."""


def sheet(images: Sequence[Image.Image]) -> Image.Image | None:
    """The images of a sample on one, in rows, each reduced to `SIDE` pixels; None without images."""
    if not images:
        return None
    small = []
    for image in images:
        image = image.convert("RGB")
        image.thumbnail((SIDE, SIDE))
        small.append(image)
    rows = [small[begin : begin + COLUMNS] for begin in range(0, len(small), COLUMNS)]
    width = max(sum(image.width + GAP for image in row) for row in rows) - GAP
    heights = [max(image.height for image in row) for row in rows]
    out = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) - 1)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for image in row:
            out.paste(image, (left, top))
            left += image.width + GAP
        top += height + GAP
    return out


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
