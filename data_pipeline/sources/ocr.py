"""Images with text and the boxes of its words, as TextVQA and InfographicsVQA have them.

A folder with `questions.json`, the data set's own file of questions, and the words in one of two forms:

- TextVQA: `ocr.json`, its file of Rosetta's OCR: {"data": [{"image_id": "0054", "ocr_info": [{"word": "STOP",
  "bounding_box": {"top_left_x": 0.4, "top_left_y": 0.1, "width": 0.1, "height": 0.05}}]}]}, in shares of the image.
  Questions: {"data": [{"question_id": 1, "image_id": "0054", "question": "...", "answers": ["stop", ...]}]}; the images
  are `images/0054.jpg`. The answers are ten people's; right is what three of them said, or else what most did.
- InfographicsVQA: `ocr/20471.json`, Textract's: {"WORD": [{"Text": "87%", "Geometry": {"BoundingBox": {"Left": 0.4,
  "Top": 0.1, "Width": 0.1, "Height": 0.05}}}]}. Questions: {"data": [{"questionId": 1, "image_local_name":
  "20471.jpeg", "question": "...", "answers": ["87%"]}]}; the images are `images/20471.jpeg`.

The evidence is the box around the words, one after another, that are an answer. A question whose answer is not written
on the image has none: it is an error that says so, and the others go on.
"""

from __future__ import annotations

import collections
import unicodedata
from collections.abc import Sequence

from data_pipeline.seed import NormalizedBox, Seed
from data_pipeline.sources.base import ListReader, SourceEntry, read_json
from pixel_reasoner_jax.files import as_path

MARGIN = 0.5
"""Of a word's height, added around the words: a box that touches the letters is hard to read."""

VOTERS, AGREEING = 10, 3
"""People who answered a question of TextVQA, and how many of them make an answer right: its own measure."""

Word = tuple[str, NormalizedBox]


class ReadableImages(Sequence):
    """See the module; `path` is the folder."""

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
        found = {answer: box for answer in answers if (box := _box_of(answer, words)) is not None}
        if not found:
            raise entry.error(
                f"none of its answers ({', '.join(answers[:3])}) is written on {path}, as far as OCR says"
            )
        written, cue = next(iter(found.items()))
        answers = [written, *(answer for answer in answers if answer != written)]
        number = entry.value.get("question_id", entry.value.get("questionId", f"{index:06d}"))
        return Seed(
            id=f"ocr-{number}",
            question=entry.text("question"),
            answer=answers[0] if len(answers) == 1 else answers,
            images=(data,),
            cue=entry.inside("answers", cue),
            attributes={"image": name, "image_size": list(size)},
        )

    def _words(self, entry: SourceEntry, stem: str) -> list[Word]:
        if self._rosetta:
            if stem not in self._rosetta:
                raise entry.error(f"there is no OCR of image {stem} in {self._folder / 'ocr.json'}")
            page = self._rosetta[stem]
            return [
                _word(SourceEntry(word, f"{page.location}, word {number}", page.folder), "word", ROSETTA)
                for number, word in enumerate(page.get("ocr_info", list))
            ]
        file = self._folder / "ocr" / f"{stem}.json"
        page = SourceEntry(read_json(file), str(file), file.parent)
        return [
            _word(SourceEntry(word, f"{file}, word {number}", file.parent), "Text", TEXTRACT)
            for number, word in enumerate(page.get("WORD", list))
        ]


ROSETTA = ("bounding_box", "top_left_x", "top_left_y", "width", "height")
TEXTRACT = ("Geometry", "Left", "Top", "Width", "Height")


def _word(entry: SourceEntry, text: str, names: tuple[str, ...]) -> Word:
    outer, left, top, width, height = names
    box = SourceEntry(entry.get(outer, dict), entry.location, entry.folder)
    if outer == "Geometry":
        box = SourceEntry(box.get("BoundingBox", dict), entry.location, entry.folder)
    x, y, across, down = (box.get(name, (int, float)) for name in (left, top, width, height))
    return entry.get(text, str), (x, y, x + across, y + down)


def _accepted(entry: SourceEntry) -> list[str]:
    """The answers that are right, those of most people first, and of as many the one that was given first."""
    given = [str(answer).strip() for answer in entry.get("answers", list)]
    votes = collections.Counter(answer for answer in given if answer).most_common()
    if not votes:
        raise entry.error("'answers' is empty")
    if len(given) == VOTERS:
        votes = [(answer, count) for answer, count in votes if count >= AGREEING] or votes[:1]
    return [answer for answer, _ in votes]


def _box_of(answer: str, words: list[Word]) -> NormalizedBox | None:
    """The box around the first run of words that reads as the answer, with a margin."""
    wanted = _plain(answer)
    texts = [_plain(text) for text, _ in words]
    for first in range(len(words)):
        text = ""
        for last in range(first, len(words)):
            text += texts[last]
            if not wanted.startswith(text):
                break
            if text == wanted and wanted:
                return _around([box for _, box in words[first : last + 1]])
    return None


def _around(boxes: list[NormalizedBox]) -> NormalizedBox:
    margin = MARGIN * max(bottom - top for _, top, _, bottom in boxes)
    left, top, right, bottom = (
        pick(column) for pick, column in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)
    )
    return left - margin, top - margin, right + margin, bottom + margin


def _plain(text: str) -> str:
    """Letters and digits alone, and signs that numbers have: how OCR and people write words differs in the rest."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in text if character.isalnum() or character in "%$€£+.-").strip(".-")
