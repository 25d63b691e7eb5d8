"""TensorBoard events in the run's directory: figures as scalars, samples as images and texts, alarms as texts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.trackers.tracker import TrackedRun, TrackedSample, Tracker, png, sheet

EVENTS_SECONDS = 30.0  # between two moments when events go to the disk


class TensorBoard(Tracker):
    """Events written without tensorboardX's own writer, whose thread ends with the first error."""

    def __init__(self, run: TrackedRun):
        super().__init__(run)
        # They import torch where that is installed: seconds, for every command.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer, self._flushed = EventsWriter(str(run.directory / "events")), time.monotonic()
        if run.step:  # what an interrupted run wrote after it is not shown
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=run.step + 1, file_version="brain.Event:2")
            self._write(step=run.step + 1, session_log=start)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self._summary(value=scalars))
        if time.monotonic() - self._flushed > EVENTS_SECONDS:
            self.flush()

    def samples(self, step: int, samples: Sequence[TrackedSample]) -> None:
        for number, sample in enumerate(samples):
            tag = f"samples/{number}"
            if (shown := sheet(sample.images)) is not None:
                image = self._summary.Image(
                    height=shown.height, width=shown.width, colorspace=3, encoded_image_string=png(shown)
                )
                self._write(step=step, summary=self._summary(value=[self._summary.Value(tag=tag, image=image)]))
            figures = ", ".join(f"{name} {value:.4g}" for name, value in sample.figures.items())
            parts = (sample.question, f"reference: {sample.reference}", figures, sample.text)
            self._text(step, f"{tag}/text", "\n\n".join(parts))

    def alarm(self, step: int, name: str, text: str) -> None:
        self._text(step, f"alarms/{name}", text)

    def _text(self, step: int, tag: str, text: str) -> None:
        from tensorboardX.summary import text as text_summary

        # Indented by four, it is shown as it is: TensorBoard reads texts as Markdown.
        self._write(step=step, summary=text_summary(tag, "\n".join(f"    {line}" for line in text.splitlines())))

    def _write(self, **fields: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **fields))

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()
