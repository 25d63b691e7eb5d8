"""Screenshots of web pages with the boxes of their elements, as a headless browser gives them.

A file of JSON lines, one page a line; boxes are [x, y, width, height] in CSS pixels, as `getBoundingClientRect` gives:

    {"id": "page-1", "url": "https://...", "screenshot": "shots/1.png", "scale": 2,
     "elements": [{"text": "Opening hours", "box": [24, 310, 180, 22]},
                  {"text": "Monday to Friday, 9 to 17", "box": [24, 340, 220, 22]}],
     "questions": [{"question": "When does it open on Monday?", "answer": "9", "element": 1},
                   {"question": "Who wrote it?", "answer": "Ada", "box": [24, 96, 60, 18]}]}

`scale` is the number of the screenshot's pixels to a CSS pixel, 1 unless given. Every question is a seed; its evidence
is its own `box`, or that of the `element` with this index. The one that has the box may have a `text_height`, that of a
line, which tells whether it can be read without zooming. Wrong crops show other elements. A page without `questions`
gives one seed, for which the captioner asks about the element with the longest text.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.seed import NormalizedBox, Seed
from data_pipeline.sources.base import LineReader, SourceEntry, SourceError

MIN_ELEMENT_SHARE = 0.02
"""The smallest side, as a share of the page, of an element that a wrong crop may show."""


class WebPages(Sequence):
    """The seeds of a file of JSON lines, `path`, in the form that the module documents."""

    def __init__(self, path: str):
        self._lines = LineReader(path)
        self._pairs = [pair for page in range(len(self._lines)) for pair in self._questions(page)]

    def _questions(self, page: int) -> list[tuple[int, int]]:
        """(page, question) of every seed of a page; an unreadable line is one seed, which raises when asked for."""
        try:
            questions = self._lines[page].get("questions", list, [])
        except SourceError:
            questions = []
        return [(page, number) for number in range(len(questions) or 1)]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Seed:
        page, number = self._pairs[index]
        entry = self._lines[page]
        data, size = entry.image(entry.path("screenshot"))
        elements = _parts(entry, "elements", "element")
        boxes = [_page_box(element, entry, size) for element in elements]
        questions = _parts(entry, "questions", "question")
        fields = {"question": "", "answer": ""}
        if questions:
            asked = questions[number]
            fields = {"question": asked.text("question"), "answer": asked.answer()}
            about, cue = _evidence(entry, asked, elements, boxes, size)
        elif elements:
            longest = max(range(len(boxes)), key=lambda at: (len(elements[at].get("text", str, "")), -at))
            about, cue = elements[longest], boxes[longest]
        else:
            raise entry.error("it has neither 'questions' nor 'elements'")
        return Seed(
            id=f"web-{entry.get('id', (str, int), f'{self._lines.path.stem}-{page:06d}')}-{number}",
            images=(data,),
            cue=cue,
            candidates=tuple(box for box in boxes if box != cue and _worth_a_look(box)),
            text_height=about.height("text_height", size[1] / _scale(entry)),
            attributes={"url": entry.get("url", str, "")},
            **fields,
        )


def _parts(entry: SourceEntry, name: str, one: str) -> list[SourceEntry]:
    values = entry.get(name, list, [])
    return [entry.part(value, f"{one} {number}") for number, value in enumerate(values)]


def _evidence(
    entry: SourceEntry,
    asked: SourceEntry,
    elements: list[SourceEntry],
    boxes: list[NormalizedBox],
    size: tuple[int, int],
) -> tuple[SourceEntry, NormalizedBox]:
    """What the answer is in, the question itself or an element, and its box."""
    if asked.value.get("box") is not None:
        return asked, _page_box(asked, entry, size)
    element = asked.get("element", int)
    if not 0 <= element < len(boxes):
        raise asked.error(f"there is no element {element} among {len(boxes)}")
    return elements[element], boxes[element]


def _page_box(part: SourceEntry, page: SourceEntry, size: tuple[int, int]) -> NormalizedBox:
    """A box in CSS pixels, normalized by the screenshot's size."""
    scale = _scale(page)
    x, y, width, height = (value * scale for value in part.numbers("box", 4))
    return part.inside("box", (x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1]))


def _scale(page: SourceEntry) -> float:
    """The screenshot's pixels to a CSS pixel."""
    scale = page.get("scale", (int, float), 1)
    if scale <= 0:
        raise page.error(f"'scale' is {scale}")
    return scale


def _worth_a_look(box: NormalizedBox) -> bool:
    return min(box[2] - box[0], box[3] - box[1]) >= MIN_ELEMENT_SHARE
