"""What a trajectory grows from: media, a question, its answer, and where the evidence is."""

from __future__ import annotations

import dataclasses
from typing import Any

from pixel_reasoner_jax.processing.loading import ImageSource

Box = tuple[float, float, float, float]
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
      cue: the evidence: a normalized box of the first image, or 1-based frame indices of the video.
      candidates: other boxes worth a look; a wrong box is taken from them where there are any.
      attributes: what else the source knows (plain values only; stored with the trajectory).
    """

    id: str
    question: str
    answer: str | list[str]
    images: tuple[ImageSource, ...] = ()
    video: Any = None
    fps: float | None = None
    cue: Box | tuple[int, ...] = (0.0, 0.0, 1.0, 1.0)
    candidates: tuple[Box, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def text_answer(self) -> str:
        """The answer to write: the first of the accepted ones."""
        return self.answer if isinstance(self.answer, str) else self.answer[0]

    def query(self) -> dict[str, Any]:
        """The mapping that rollouts take."""
        query: dict[str, Any] = {"id": self.id, "question": self.question, "answer": self.answer}
        if self.video is None:
            return query | {"images": list(self.images)}
        return query | {"video": self.video} | ({} if self.fps is None else {"fps": self.fps})
