"""An annotated query, from which a trajectory is synthesized: media, question, answer, and where the evidence is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.decoding import sample_indices
from pixel_reasoner_jax.processing.loading import ImageSource
from pixel_reasoner_jax.query import OBJECT_BOXES

MAX_FRAMES = 8
"""The most frames that one call of `select_frames` takes."""

NormalizedBox = tuple[float, float, float, float]
"""Left, top, right, bottom, normalized by the image's width and height."""


@dataclasses.dataclass(frozen=True)
class Seed:
    """An annotated query.

    Attributes:
      id: unique within a data set.
      question: what is asked; "" where a captioner is to ask.
      answer: the accepted answer or answers; "" with an empty question.
      images: the query's images, unresized, as PIL images or the bytes of files, which are stored as they are; empty
        for a video.
      video: anything `Processor.load_video` takes; None for images.
      fps: for a video given as a list of frames, how many of them make a second; None for the processor's default.
      cue: the evidence: a normalized box of the first image, or 1-based frame indices of the video; empty where it is
        not known, and a captioner is to find it.
      window: for a video, the start and end of the evidence in seconds; the sampled frames within become the cue.
      candidates: other boxes worth a look; a wrong box is taken from them where there are any.
      text_height: of the text that is the evidence, the height of its lines as a share of the image's height; None
        if the evidence is no text or the height is not known.
      attributes: what else the source knows (plain values only; stored with the trajectory).
    """

    id: str
    question: str
    answer: str | list[str]
    images: tuple[ImageSource, ...] = ()
    video: Any = None
    fps: float | None = None
    cue: NormalizedBox | tuple[int, ...] = (0.0, 0.0, 1.0, 1.0)
    window: tuple[float, float] | None = None
    candidates: tuple[NormalizedBox, ...] = ()
    text_height: float | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def text_answer(self) -> str:
        """The answer to write: the first of the accepted ones."""
        return self.answer if isinstance(self.answer, str) else self.answer[0]

    def with_frames(self, times: Sequence[float]) -> Seed:
        """The seed with its window turned into a cue of frame numbers; a seed without a window is returned as it is.

        Args:
          times: of the sampled frames, in seconds, ascending. The cue is the frames within the window, at most
            `MAX_FRAMES` of them, spread evenly. If no frame lies within it, the cue is the one nearest to its middle.

        Raises:
          UserError: the window ends before it starts, or begins after the video.
        """
        if self.window is None:
            return self
        (start, end), last = self.window, times[-1]
        if not 0 <= start <= end or start > last + 1:  # the last frame is shown for a while
            raise UserError(f"seed {self.id}: from {start:g} to {end:g} s is no window of a video of {last:.1f} s")
        inside = [number for number, time in enumerate(times, 1) if start <= time <= end]
        if not inside:
            middle = (start + end) / 2
            inside = [min(range(1, len(times) + 1), key=lambda number: abs(times[number - 1] - middle))]
        chosen = tuple(inside[index] for index in sample_indices(len(inside), MAX_FRAMES))
        return dataclasses.replace(self, cue=chosen, window=None)

    def query(self) -> dict[str, Any]:
        """The mapping that rollouts take."""
        query: dict[str, Any] = {"id": self.id, "question": self.question, "answer": self.answer}
        query |= {name: self.attributes[name] for name in OBJECT_BOXES if name in self.attributes}
        if self.video is None:
            return query | {"images": list(self.images)}
        return query | {"video": self.video} | ({} if self.fps is None else {"fps": self.fps})
