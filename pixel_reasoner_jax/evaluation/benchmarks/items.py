"""One question of a benchmark, and how it is put into words."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.evaluation.benchmarks.clips import Clip
from pixel_reasoner_jax.query import FractionBox

LETTERS = string.ascii_uppercase


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The words of a prompt around a question.

    Attributes:
      template: with `{question}`, and `{options}` where there are some; without options their line is left out.
      option: the line of an option, with `{letter}` and `{text}`.
    """

    template: str = "{question}\n{options}"
    option: str = "({letter}) {text}"

    def text(self, item: Item) -> str:
        """The question of an item in this prompt's words; nothing of the answer is in it."""
        lines = [self.option.format(letter=letter, text=text) for letter, text in zip(LETTERS, item.options)]  # noqa: B905
        template = self.template if lines else self.template.replace("\n{options}", "")
        return template.format(question=item.question, options="\n".join(lines))


@dataclasses.dataclass(frozen=True)
class Item:
    """One question with its answer.

    Attributes:
      id: unique in the benchmark.
      question: the question alone, without options and instruction.
      options: their texts in the order shown; empty for an open question.
      right: the index of the right option in `options`; None for an open question, or where the answer is withheld.
      answers: the accepted answers of an open question, each once for every annotator who gave it; empty if withheld.
      images: paths, or the bytes of files.
      video: a path, or a list of frames (paths or bytes) with their `fps`; None for images.
      fps: frames in a second of a video that is given as a list.
      clip: the part of the video that is asked about; None for all of it.
      categories: kind of category -> value.
      cluster: items with the same cluster are drawn together by the bootstrap: those of one image.
      order: where each option that is shown stood in the file; None where they are shown in the file's order.
      object_box: where what is asked about is in the first image, for pages alone; None where the file does not say.
      extra: what else the row says, for a scorer or a submission.
    """

    id: str
    question: str
    options: tuple[str, ...] = ()
    right: int | None = None
    answers: tuple[str, ...] = ()
    images: tuple[str | bytes, ...] = ()
    video: str | bytes | list[str | bytes] | None = None
    fps: float | None = None
    clip: Clip | None = None
    categories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cluster: str = ""
    order: tuple[int, ...] | None = None
    object_box: FractionBox | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def letters(self) -> str:
        """The letters of the options, "ABCD"."""
        return LETTERS[: len(self.options)]

    @property
    def letter(self) -> str | None:
        """The letter of the right option as shown, or that a question with its options in its own words accepts.

        None for an open question, or where the answer is withheld.
        """
        if self.right is not None:
            return LETTERS[self.right]
        return (
            self.answers[0] if len(self.answers) == 1 == len(self.answers[0]) and self.answers[0] in LETTERS else None
        )

    @property
    def answered(self) -> bool:
        """Whether the right answer is known."""
        return self.right is not None or bool(self.answers)

    @property
    def reference(self) -> str | list[str]:
        """What `rewards` compares answers with: "B. green" of a choice, else the answer or the list of answers."""
        if self.right is not None:
            return f"{self.letter}. {self.options[self.right]}"
        distinct = list(dict.fromkeys(self.answers))
        return distinct[0] if len(distinct) == 1 else distinct

    def query(self, prompt: Prompt, frames: int = 16) -> dict[str, Any]:
        """What a policy is asked: a query (`rollout.prompt`) without the answer.

        Args:
          prompt: the words around the question.
          frames: how many frames are taken of a clip of a video file; other videos are sampled by the policy.

        Raises:
          MediaError: the clip cannot be read.
        """
        query: dict[str, Any] = {"id": self.id, "question": prompt.text(self)}
        if self.video is None:
            return query | {"images": list(self.images)}
        video = self.video if self.clip is None else self.clip.take(self.video, self.fps, frames)
        return query | {"video": video} | ({} if self.fps is None else {"fps": self.fps})


@dataclasses.dataclass(frozen=True)
class UnreadableItem:
    """A row that cannot be asked: it is counted, named and scored wrong.

    Attributes:
      id: as of `Item`.
      problem: what is wrong and where, in a sentence for messages.
      categories, cluster: as of `Item`, as far as they could be read.
    """

    id: str
    problem: str
    categories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cluster: str = ""
