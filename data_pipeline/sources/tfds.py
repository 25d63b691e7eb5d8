"""Any TFDS data set with images and boxes, described by a map of its fields.

A JSON file names the data set, which must be in the ArrayRecord format, and maps our fields to its features; features
within features are written with slashes:

    {"directory": "tensorflow_datasets/coco/2017/1.1.0", "split": "train",
     "image": "image", "id": "image/filename", "box": "objects/bbox", "answer": "objects/label",
     "question_text": "Which object is in the smallest box?"}

| field | |
|---|---|
| `directory` | the folder with `dataset_info.json`; a relative one starts at the map's folder |
| `split` | "train" unless given |
| `image`, `box` | required; a box is TFDS' own [top, left, bottom, right] in shares of the image, or a list of them |
| `box_order` | "yxyx", TFDS' own, unless given; or "xyxy" |
| `question`, `answer` | may be left out where the captioner can ask for itself; class labels become their names |
| `question_text` | one question for all entries, in place of `question` |
| `id` | the number of the entry unless given |

Of several boxes, the smallest one of at least 32 pixels a side is the evidence. If there is one `answer` for each box,
the answer of that box is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.seed import NormalizedBox, Seed
from data_pipeline.sources.base import SourceEntry, SourceError, read_json
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.processing.decoding import upright_size

SMALLEST_SIDE = 32
"""The smallest side, in pixels, of a box that is chosen among several."""

MAP_FIELDS = ("directory", "split", "image", "box", "box_order", "question", "question_text", "answer", "id")


class BoxedDataset(Sequence):
    """The seeds of a data set; `path` is the JSON file with the map of its fields."""

    def __init__(self, path: str):
        import tensorflow_datasets as tfds  # of some size, and needed by this source alone

        file = as_path(path)
        self._map = SourceEntry(read_json(file), str(file), file.parent)
        if unknown := sorted(set(self._map.value) - set(MAP_FIELDS)):
            raise self._map.error(f"unknown field {unknown[0]!r}; known: {', '.join(MAP_FIELDS)}")
        self._image, self._box = self._map.text("image"), self._map.text("box")
        self._order = self._map.text("box_order", "yxyx")
        if self._order not in ("yxyx", "xyxy"):
            raise self._map.error(f"'box_order' is {self._order!r}, expected yxyx or xyxy")
        directory = self._map.folder / self._map.text("directory")
        split = self._map.text("split", "train")
        try:
            builder = tfds.builder_from_directory(directory)
            skip = _nested(self._image, tfds.decode.SkipDecoding())  # TFDS would decode it, and lose the file's bytes
            self._records = builder.as_data_source(split=split, decoders=skip)
        except Exception as error:  # TFDS fails in many ways
            raise self._map.error(f"{directory} cannot be read as a TFDS data set with {split!r}: {error}") from error
        self._features, self._name = builder.info.features, f"{builder.name}-{split}"
        for name in ("image", "box", "question", "answer", "id"):
            if name in self._map.value:
                self._feature(self._map.text(name))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Seed:
        location = f"{self._map.location}: {self._name}, entry {index}"
        try:
            record = self._records[index]
        except Exception as error:  # as above
            raise SourceError(f"{location}: cannot be read ({error})") from error
        entry = SourceEntry(record, location, self._map.folder)
        data = _part(record, self._image)
        try:
            size = upright_size(data)
        except MediaError as error:
            raise entry.error(f"{self._image!r}: {error}") from error
        boxes = self._boxes(entry, _part(record, self._box))
        chosen = _smallest(boxes, size)
        question = self._map.text("question_text", None) or self._text(record, "question")
        answer = self._text(record, "answer", chosen, len(boxes)) if question else ""
        if question and not answer:
            raise entry.error("it has no answer")
        name = self._text(record, "id") or f"{index:06d}"
        return Seed(f"{self._name}-{name}", question, answer, (data,), cue=boxes[chosen])

    def _boxes(self, entry: SourceEntry, value: Any) -> list[NormalizedBox]:
        rows = np.asarray(value, float).reshape(-1, 4).tolist()
        if not rows:
            raise entry.error("it has no box")
        order = (1, 0, 3, 2) if self._order == "yxyx" else (0, 1, 2, 3)
        return [entry.inside(self._box, tuple(row[at] for at in order)) for row in rows]

    def _text(self, record: Any, field: str, chosen: int = 0, boxes: int = 1) -> str:
        """A field as text; of a list with an item for each box, that of the chosen box; "" if the map lacks it."""
        path = self._map.text(field, None)
        if path is None:
            return ""
        value, feature = _part(record, path), self._feature(path)
        if isinstance(value, list | np.ndarray):
            if not len(value):
                return ""
            value = value[chosen if len(value) == boxes else 0]
        if hasattr(feature, "int2str"):
            return feature.int2str(int(value))
        return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()

    def _feature(self, path: str) -> Any:
        feature = self._features
        for part in path.split("/"):
            try:
                feature = feature[part]
            except (KeyError, TypeError, AttributeError):
                raise self._map.error(f"the data set has no field {path!r}; it has {list(self._features)}") from None
        return getattr(feature, "feature", feature)


def _part(record: Any, path: str) -> Any:
    for name in path.split("/"):
        record = record[name]
    return record


def _nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split("/")):
        value = {name: value}
    return value


def _smallest(boxes: list[NormalizedBox], size: tuple[int, int]) -> int:
    """The index of the smallest box of at least `SMALLEST_SIDE` a side; if there is none, of the largest box."""
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    fitting = [
        number
        for number, (left, top, right, bottom) in enumerate(boxes)
        if min((right - left) * size[0], (bottom - top) * size[1]) >= SMALLEST_SIDE
    ]
    return min(fitting, key=areas.__getitem__) if fitting else max(range(len(boxes)), key=areas.__getitem__)
