"""Images with text and the boxes of its words, as TextVQA and InfographicsVQA have them.

A folder with `questions.json`, the data set's own file of questions, and the words in one of two forms:

- TextVQA: `ocr.json`, its file of Rosetta's OCR: {"data": [{"image_id": "0054", "ocr_info": [{"word": "STOP",
  "bounding_box": {"top_left_x": 0.4, "top_left_y": 0.1, "width": 0.1, "height": 0.05}}]}]}, in shares of the image.
  Questions: {"data": [{"question_id": 1, "image_id": "0054", "question": "...", "answers": ["stop", ...]}]}; the images
  are `images/0054.jpg`. Ten people answered each question; answers that at least three of them gave are accepted, or
  if there are none, the most frequent one.
- InfographicsVQA: `ocr/20471.json`, Textract's: {"WORD": [{"Text": "87%", "Geometry": {"BoundingBox": {"Left": 0.4,
  "Top": 0.1, "Width": 0.1, "Height": 0.05}}}]}. Questions: {"data": [{"questionId": 1, "image_local_name":
  "20471.jpeg", "question": "...", "answers": ["87%"]}]}; the images are `images/20471.jpeg`.

The evidence is the box around consecutive words that read as an accepted answer. A question whose answers are not
written on the image gives no seed, but a `SourceError`.
"""

from __future__ import annotations

import collections
import unicodedata
from collections.abc import Sequence

from data_pipeline.seed import NormalizedBox, Seed
from data_pipeline.sources.base import ListReader, SourceEntry, read_json
from pixel_reasoner_jax.files import as_path

MARGIN = 0.5
"""Share of a word's height that is added around the words: a box that touches the letters is hard to read."""

VOTERS, AGREEING = 10, 3
"""People who answered each question of TextVQA, and how many of them must agree on an accepted answer."""

Word = tuple[str, NormalizedBox]


class ReadableImages(Sequence):
    """The seeds of a folder, `path`, in one of the two forms that the module documents."""

    def __init__(self, path: str):
        self._folder = as_path(path)
        self._questions = ListReader(self._folder / "questions.json", "data")
        self._rosetta: dict[str, SourceEntry] = {}
        if (self._folder / "ocr.json").is_file():
            pages = ListReader(self._folder / "ocr.json", "data")
            self._rosetta = {
                str(page.value.get("image_id")): page for page in map(pages.__getitem__, range(len(pages)))
            }

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> Seed:
        entry = self._questions[index]
        name = entry.get("image_local_name", str, "") or f"{entry.get('image_id', (str, int))}.jpg"
        path = self._folder / "images" / name
        if not path.is_file():
            raise entry.error(f"there is no file {path}")
        data, size = entry.image(path)
        answers = _accepted(entry)
        words = self._words(entry, path.stem)
        found = {answer: boxes for answer in answers if (boxes := _boxes_of(answer, words))}
        if not found:
            raise entry.error(
                f"none of its answers ({', '.join(answers[:3])}) is written on {path}, as far as OCR says"
            )
        legible, boxes = next(iter(found.items()))
        answers = [legible, *(answer for answer in answers if answer != legible)]
        number = entry.value.get("question_id", entry.value.get("questionId", f"{index:06d}"))
        return Seed(
            id=f"ocr-{number}",
            question=entry.text("question"),
            answer=answers[0] if len(answers) == 1 else answers,
            images=(data,),
            cue=entry.inside("answers", _around(boxes)),
            text_height=min(bottom - top for _, top, _, bottom in boxes),
            attributes={"image": name, "image_size": list(size)},
        )

    def _words(self, entry: SourceEntry, stem: str) -> list[Word]:
        if self._rosetta:
            if stem not in self._rosetta:
                raise entry.error(f"there is no OCR of image {stem} in {self._folder / 'ocr.json'}")
            page = self._rosetta[stem]
            return [
                _word(page.part(word, f"word {number}"), "word", ROSETTA)
                for number, word in enumerate(page.get("ocr_info", list))
            ]
        file = self._folder / "ocr" / f"{stem}.json"
        page = SourceEntry(read_json(file), str(file), file.parent)
        return [
            _word(page.part(word, f"word {number}"), "Text", TEXTRACT)
            for number, word in enumerate(page.get("WORD", list))
        ]


ROSETTA = ("bounding_box", "top_left_x", "top_left_y", "width", "height")
TEXTRACT = ("Geometry", "Left", "Top", "Width", "Height")


def _word(entry: SourceEntry, text: str, names: tuple[str, ...]) -> Word:
    outer, left, top, width, height = names
    box = entry.part(entry.get(outer, dict))
    if outer == "Geometry":
        box = box.part(box.get("BoundingBox", dict))
    x, y, across, down = (box.get(name, (int, float)) for name in (left, top, width, height))
    return entry.get(text, str), (x, y, x + across, y + down)


def _accepted(entry: SourceEntry) -> list[str]:
    """The accepted answers, the most frequent first; among equals, the one that was given first."""
    given = [str(answer).strip() for answer in entry.get("answers", list)]
    votes = collections.Counter(answer for answer in given if answer).most_common()
    if not votes:
        raise entry.error("'answers' is empty")
    if len(given) == VOTERS:
        votes = [(answer, count) for answer, count in votes if count >= AGREEING] or votes[:1]
    return [answer for answer, _ in votes]


def _boxes_of(answer: str, words: list[Word]) -> list[NormalizedBox]:
    """The boxes of the first consecutive words that read as the answer; empty if there are none."""
    wanted = _plain(answer)
    texts = [_plain(text) for text, _ in words]
    for first in range(len(words)):
        text = ""
        for last in range(first, len(words)):
            text += texts[last]
            if not wanted.startswith(text):
                break
            if text == wanted and wanted:
                return [box for _, box in words[first : last + 1]]
    return []


def _around(boxes: list[NormalizedBox]) -> NormalizedBox:
    """The box, with a margin, around words."""
    margin = MARGIN * max(bottom - top for _, top, _, bottom in boxes)
    left, top, right, bottom = (
        pick(column) for pick, column in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)
    )
    return left - margin, top - margin, right + margin, bottom + margin


def _plain(text: str) -> str:
    """Letters, digits and the signs of numbers, case-folded: in all else OCR and people write words differently."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in text if character.isalnum() or character in "%$€£+.-").strip(".-")
