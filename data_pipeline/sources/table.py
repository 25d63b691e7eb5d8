"""Annotated queries as JSON lines, one query a line: the plain form, to which other data can be converted.

    {"id": "cat-1", "image": "photos/1.jpg", "question": "What is on the sign?", "answer": "STOP",
     "box": [412, 80, 470, 131]}
    {"id": "jump", "video": "clips/a.mp4", "question": "Who jumps?", "answer": ["the boy", "boy"], "window": [3.5, 6]}

| field | |
|---|---|
| `id` | unique; the file's name and the line unless given |
| `image` or `images` | a file, or a list of which the first has the evidence; relative paths start at the JSONL's folder |
| `video` | a video file, or a list of frame files with their `fps` |
| `question`, `answer` | the answer a text, a number or a list of those that are accepted; both may be left out where the captioner can ask for itself |
| `box` | [left, top, right, bottom] of the evidence, in pixels of the upright image, or shares if no number is above 1; may be left out where the captioner can find it for itself |
| `text_height` | height of a line of the evidence's text, in pixels or as a share; where it can be read in the whole image, an answer without any operation is honest |
| `candidates` | other boxes worth a look, in the same form; wrong crops are then taken from them |
| `window` | [start, end] of the evidence in seconds, in place of `frames`; both may be left out where a model of ours is sampled |
| `frames` | numbers, from 1, of the frames with the evidence, among those that are sampled from the video |
| `attributes` | an object of what else is known; goes with the trajectory, and fills the template captioner's phrases |
"""  # noqa: E501  a table row is one line

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.seed import Seed
from data_pipeline.sources.base import LineReader, SourceEntry


class JsonLines(Sequence):
    """The seeds of a file of JSON lines, `path`, in the form that the module documents."""

    def __init__(self, path: str):
        self._lines = LineReader(path)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Seed:
        entry = self._lines[index]
        asked = entry.value.get("question") is not None
        fields = {
            "id": str(entry.get("id", (str, int), f"{self._lines.path.stem}-{index:06d}")),
            "question": entry.text("question") if asked else "",
            "answer": entry.answer() if asked else "",
            "attributes": dict(entry.get("attributes", dict, {})),
        }
        if entry.value.get("video") is not None:
            return Seed(**fields, **_video(entry))
        return Seed(**fields, **_images(entry))


def _video(entry: SourceEntry) -> dict:
    if isinstance(entry.value["video"], list):
        frames = [entry.image(path)[0] for path in _paths(entry, "video")]
        video = {"video": frames, "fps": float(entry.get("fps", (int, float), 2.0))}
    else:
        video = {"video": str(entry.path("video"))}
    if "frames" not in entry.value:
        known = entry.value.get("window") is not None
        return video | ({"window": tuple(entry.numbers("window", 2))} if known else {"cue": ()})
    numbers = entry.numbers("frames")
    if not numbers or not all(number >= 1 and number == int(number) for number in numbers):
        raise entry.error(f"'frames' are {numbers}, expected numbers from 1")
    return video | {"cue": tuple(map(int, numbers))}


def _images(entry: SourceEntry) -> dict:
    paths = _paths(entry, "images") if "images" in entry.value else [entry.path("image")]
    images = [entry.image(path) for path in paths]
    size = images[0][1]
    others = [entry.box("candidates", size, box) for box in entry.get("candidates", list, [])]
    return {
        "images": tuple(data for data, _ in images),
        "cue": entry.box("box", size) if entry.value.get("box") is not None else (),
        "candidates": tuple(others),
        "text_height": entry.height("text_height", size[1]),
    }


def _paths(entry: SourceEntry, name: str) -> list:
    names = entry.get(name, list)
    if not names:
        raise entry.error(f"{name!r} is empty")
    return [entry.part({name: one}).path(name) for one in names]
