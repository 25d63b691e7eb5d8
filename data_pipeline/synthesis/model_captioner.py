"""A captioner that shows the media to a model, which writes the passages, and questions for seeds without one.

For seeds without a box the model proposes one too. It is kept only if the model, shown nothing but the crop, then gives
the same answer.

Its prompts are files: one for every passage, `question.txt`, `box.txt`, `question_box.txt`, `confirm.txt` and
`system.txt`, in which `$question`, `$answer` and `$media` are filled in. What the model writes is not trusted, but
checked by `prose`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from data_pipeline.seed import NormalizedBox, Seed
from data_pipeline.synthesis.captioner import CaptionError, Passage, UnconfirmedBoxError
from data_pipeline.synthesis.mistakes import area, widened
from data_pipeline.synthesis.prose import find_flaw, is_refusal
from data_pipeline.synthesis.synthesizer import MediaLoader
from pixel_reasoner_jax.endpoint import Endpoint, RequestError, Spend
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.report.images import data_uri
from pixel_reasoner_jax.rewards import answer_reward

PROMPTS = pathlib.Path(__file__).parent / "prompts"
PROMPT_NAMES = ("system", "question", "box", "question_box", "confirm", *(passage.value for passage in Passage))
PROMPT_FIELDS = {"question": "", "answer": "", "media": ""}

ANSWER_ATTEMPTS = 3
"""Answers that are requested before a seed is given up, if none is usable."""

PROPOSALS = 4
"""Boxes that are requested for a seed before it is given up, if no crop of them lets the model answer."""

UNKNOWN = "unknown"  # what the prompt `confirm` wants to hear where a crop does not show the answer
LARGEST_PROPOSAL = 0.5
"""The largest share of the image that a proposed box may cover: a crop of more is no closer look."""

WHOLE_SIDE, PART_SIDE, FRAME_SIDE = 1024, 768, 384
"""Longest side, in pixels, of what the model is shown: whole images; crops and selected frames; all frames."""

PICTURE_BYTES = 400_000
"""About the most bytes of an encoded picture."""

LONGEST_SUBJECT = 200
"""The most characters of a subject, which is part of a sentence."""

LONGEST_OBJECT = 20_000
"""The most characters of a JSON object."""

_FENCE = re.compile(r"\A```(?:json)?\s*|\s*```\Z")


def load_prompts(directory: str | pathlib.Path | None = None) -> dict[str, str]:
    """The prompts by name; files in `directory` replace ours.

    Raises:
      UserError: the folder is missing, a file has another name, or a prompt has an unknown `$field`.
    """
    texts = {name: (PROMPTS / f"{name}.txt").read_text(encoding="utf-8") for name in PROMPT_NAMES}
    if directory is not None:
        folder = as_path(directory)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of prompts")
        for file in folder.glob("*.txt"):
            if file.stem not in PROMPT_NAMES:
                raise UserError(
                    f"{file}: there is no such prompt; they are {', '.join(f'{n}.txt' for n in PROMPT_NAMES)}"
                )
            texts[file.stem] = file.read_text(encoding="utf-8")
            try:
                string.Template(texts[file.stem]).substitute(PROMPT_FIELDS)
            except (KeyError, ValueError) as error:
                raise UserError(
                    f"{file}: {error} cannot be filled in; there are ${', $'.join(PROMPT_FIELDS)}"
                ) from None
    return {name: text.strip() for name, text in texts.items()}


class ModelCaptioner:
    """Writes for one seed at a time, in one thread; create one for each seed.

    Args:
      endpoint: the model.
      prompts: from `load_prompts`.
      media: loads images and videos, as for the synthesizer.
      padding: of the crop operation: the model is shown what the operation will return.

    Attributes:
      spend: the cost of its requests.
    """

    def __init__(self, endpoint: Endpoint, prompts: Mapping[str, str], media: MediaLoader, padding: float = 0.1):
        self._endpoint, self._prompts, self._media, self._padding = endpoint, prompts, media, padding
        self._loaded: tuple[str, list[Image.Image]] = ("", [])
        self.spend = Spend()

    def add_question(self, seed: Seed) -> Seed:
        """The seed with a question about its cue, and its answer, both written by the model."""
        pictures = [*self._pictures(seed, ()), *self._pictures(seed, seed.cue)]
        asked = self._answer("question", seed, pictures, _question)
        return dataclasses.replace(seed, question=asked["question"].strip(), answer=asked["answer"].strip())

    def add_cue(self, seed: Seed) -> Seed:
        """The seed with a box that the model proposed and confirmed, and with its question and answer if it had none.

        The model, or any other that answers at the endpoint, confirms a box by answering from its crop alone.
        """
        if seed.video is not None:
            raise CaptionError("it has neither 'frames' nor a 'window', and only boxes of images are proposed")
        name = "box" if seed.question else "question_box"
        shown = self._full_media(seed)[0].size
        scale = min(1.0, WHOLE_SIDE / max(shown))
        problem, confirmable = "", False
        for proposal, flaw in self._answers(name, seed, self._pictures(seed, ()), _object, PROPOSALS):
            problem = flaw
            if flaw is not None:
                continue
            try:
                proposed = _proposed(proposal, seed, (shown[0] * scale, shown[1] * scale))
            except ValueError as error:
                problem = str(error)
                continue
            confirmable = True
            problem = self._doubt(proposed)
            if problem is None:
                return proposed
        kind = UnconfirmedBoxError if confirmable else CaptionError
        raise kind(f"none of {PROPOSALS} boxes that the model proposed is kept; the last one: {problem}")

    def _doubt(self, seed: Seed) -> str | None:
        """Why the crop of a proposed box is not enough to answer, None if it is."""
        try:
            answer = self._answer("confirm", seed, self._pictures(seed, seed.cue), _passage)
        except CaptionError as error:
            return str(error)
        if answer.strip(" .\"'").casefold() == UNKNOWN:
            return "from the crop alone the model cannot answer"
        if answer_reward(f"\\boxed{{{answer}}}", seed.answer) == 1:
            return None
        return f"from the crop alone the model answers {answer[:200]!r}, not {seed.text_answer[:200]!r}"

    def write(self, seed: Seed, passage: Passage, target: tuple = ()) -> str:
        read = _subject if passage is Passage.SUBJECT else _passage
        return self._answer(passage.value, seed, self._pictures(seed, target), read)

    def _answer(self, name: str, seed: Seed, pictures: list[str], read: Any) -> Any:
        """The first usable answer of at most `ANSWER_ATTEMPTS`, as `read` returns it."""
        problem = ""
        for answer, problem in self._answers(name, seed, pictures, read, ANSWER_ATTEMPTS):  # noqa: B007
            if problem is None:
                return answer
        raise CaptionError(f"no usable {name} in {ANSWER_ATTEMPTS} answers of the model; the last one: {problem}")

    def _answers(
        self, name: str, seed: Seed, pictures: list[str], read: Any, attempts: int
    ) -> Iterator[tuple[Any, str | None]]:
        """Different answers to one prompt, each requested when it is asked for.

        Args:
          name: of the prompt.
          seed: fills the prompt's fields.
          pictures: shown before it, as data URLs.
          read: from a text to what is yielded; raises ValueError for a text that cannot be used.
          attempts: the most answers.

        Yields:
          (what `read` returned, None), or (None, why the answer cannot be used).
        """
        fields = {
            "question": seed.question,
            "answer": seed.text_answer,
            "media": "a video" if seed.video is not None else "an image",
        }
        system, prompt = (string.Template(self._prompts[key]).substitute(fields) for key in ("system", name))
        shown = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": [*shown, {"type": "text", "text": prompt}]},
        ]
        for attempt in range(attempts):
            try:
                answer = self._endpoint.complete(messages, attempt)
            except RequestError as error:
                raise CaptionError(str(error)) from None
            self.spend += answer.spend
            value, problem = None, answer.problem
            if problem is None:
                try:
                    value = read(answer.text.strip())
                except ValueError as error:
                    problem = str(error)
            yield value, problem

    def _pictures(self, seed: Seed, target: tuple) -> list[str]:
        """What an operation on `target` shows, as data URLs; for an empty target, the whole input."""
        media = self._full_media(seed)
        if seed.video is not None:
            side = PART_SIDE if target else FRAME_SIDE
            frames = [media[number - 1] for number in target] if target else media
            return [data_uri(frame, side, PICTURE_BYTES) for frame in frames]
        if not target:
            return [data_uri(image, WHOLE_SIDE, PICTURE_BYTES) for image in media]
        left, top, right, bottom = widened(target, self._padding)
        width, height = media[0].size
        left, top = min(round(left * width), width - 1), min(round(top * height), height - 1)
        # A box thinner than a pixel is shown one pixel wide; the operation itself refuses boxes that are too small.
        box = (left, top, max(round(right * width), left + 1), max(round(bottom * height), top + 1))
        return [data_uri(media[0].crop(box), PART_SIDE, PICTURE_BYTES)]

    def _full_media(self, seed: Seed) -> list[Image.Image]:
        """The images of a seed, or its video's sampled frames; those of the last seed are cached."""
        if self._loaded[0] != seed.id:
            if seed.video is not None:
                loaded = list(self._media.load_video(seed.video, seed.fps).frames)
            else:
                loaded = [self._media.load_image(image) for image in seed.images]
            self._loaded = (seed.id, loaded)
        return self._loaded[1]


def _passage(text: str) -> str:
    if is_refusal(text):
        raise ValueError(f"the model refuses: {text[:200]}")
    if problem := find_flaw(text):
        raise ValueError(problem)
    return text


def _subject(text: str) -> str:
    text = _passage(text.strip("\"'“”. \n"))
    if "\n" in text or len(text) > LONGEST_SUBJECT or not text:
        raise ValueError(f"not a phrase that fits into a sentence: {text[:200]!r}")
    return text


def _question(text: str) -> dict[str, str]:
    return _texts(_object(text), ("question", "answer"))


def _object(text: str) -> dict[str, Any]:
    """The JSON object that a text is, maybe within a Markdown fence."""
    if len(text) > LONGEST_OBJECT:
        raise ValueError(f"not a JSON object of at most {LONGEST_OBJECT} characters")
    try:
        value = json.loads(_FENCE.sub("", text.strip()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _texts(value: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """The fields of an object that has these alone, all of them texts that may be used."""
    if set(value) != set(names):
        raise ValueError(f"not an object with {' and '.join(names)} alone")
    for name in names:
        if not isinstance(value[name], str) or not value[name].strip():
            raise ValueError(f"its {name} is not a text")
        _passage(value[name])
    return value


def _proposed(proposal: dict[str, Any], seed: Seed, shown: tuple[float, float]) -> Seed:
    """The seed with the box that a model proposed, and its question and answer if the seed has none.

    Args:
      proposal: the model's JSON object.
      seed: without a cue.
      shown: (width, height) of the picture that the model saw: models that were trained to give pixels give those.
    """
    numbers, others = proposal.get("box"), {name: value for name, value in proposal.items() if name != "box"}
    asked = {} if seed.question else _texts(others, ("question", "answer"))
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_is_number, numbers)):
        raise ValueError(f"its box is {str(numbers)[:80]!r}, not four numbers")
    sides = shown * 2 if max(numbers) > 1 else (1, 1, 1, 1)
    box: NormalizedBox = tuple(number / side for number, side in zip(numbers, sides, strict=True))
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"its box {numbers} is empty, inverted or outside the image")
    if area(box) > LARGEST_PROPOSAL:
        raise ValueError(f"its box {numbers} is more than {LARGEST_PROPOSAL:.0%} of the image")
    return dataclasses.replace(seed, cue=box, **{name: text.strip() for name, text in asked.items()})


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and -1e6 < value < 1e6 and math.isfinite(value)
    )
