"""Annotated queries in a table, one a row: the plain form, to which other data can be converted.

    {"id": "cat-1", "image": "photos/1.jpg", "question": "What is on the sign?", "answer": "STOP",
     "box": [412, 80, 470, 131]}
    {"id": "jump", "video": "clips/a.mp4", "question": "Who jumps?", "answer": ["the boy", "boy"], "window": [3.5, 6]}

The columns are those of `exchange.rows`, in JSON lines, JSON, CSV or parquet. For a seed

| column | |
|---|---|
| `question`, `answer` | may both be left out where the captioner can ask for itself |
| `images` | the first has the evidence |
| `box` or `boxes` | of the evidence, of several the box around all; may be left out where the captioner can find it for itself |
| `text_height` | height of a line of the evidence's text, in pixels or as a share; where it can be read in the whole image, an answer without any operation is honest |
| `candidates` | other boxes worth a look, in the same form; wrong crops are then taken from them |
| `window` or `frame_ranges` | of several ranges, from the first to the last; may be left out where a model of ours is sampled |
| `frames` | in their place, numbers, from 1, of the frames with the evidence, among those that are sampled from the video |
| `attributes` | what else is known; goes with the trajectory as all other columns do, and fills the template captioner's phrases |
"""  # noqa: E501  a table row is one line

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.exchange.media_files import MediaFiles
from data_pipeline.exchange.rows import read_row
from data_pipeline.exchange.table_source import default_id, named, problem_of
from data_pipeline.exchange.tables import Table
from data_pipeline.seed import Seed
from data_pipeline.sources.base import SourceEntry, SourceError
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.decoding import VideoFile, upright_size
from pixel_reasoner_jax.processing.sources import media_settings, read_media
from pixel_reasoner_jax.processing.videos import LIST_FPS
from pixel_reasoner_jax.rollout.choices import with_choices

_OF_THE_SEED = frozenset(
    "id question answer images video fps boxes window frames frame_ranges text_height candidates attributes".split()
)


class TableSeeds(Sequence):
    """The seeds of a table, `path`, in the form that the module documents."""

    def __init__(self, path: str):
        try:
            self._table = Table(path)
        except UserError as error:
            raise SourceError(str(error)) from None
        self._media = MediaFiles(media_settings().root or self._table.path.parent)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Seed:
        row = None
        location = self._table.location(index)
        try:
            row = self._table[index]
            return _seed(
                read_row(row, self._media), default_id(self._table.path.stem, index), location, self._table.path.parent
            )
        except SourceError:
            raise
        except Exception as error:  # a stranger's row can be wrong in any way
            raise SourceError(f"{location}: {named(row)}{problem_of(error)}") from error


def _seed(row: Mapping[str, Any], name: str, location: str, folder: Any) -> Seed:
    asked = "question" in row
    if asked and "answer" not in row:
        raise UserError("it has no answer")
    question, answer = with_choices(row["question"], row["answer"], row.get("options")) if asked else ("", "")
    others = {column: value for column, value in row.items() if column not in _OF_THE_SEED}
    fields = {
        "id": row.get("id", name),
        "question": question,
        "answer": answer,
        "attributes": {**others, **row.get("attributes", {})},
    }
    if "video" in row:
        return Seed(**fields, **_video(row))
    if "images" not in row:
        raise UserError("it has no image and no video")
    return Seed(**fields, **_images(row, SourceEntry(row, location, folder)))


def _video(row: Mapping[str, Any]) -> dict[str, Any]:
    video = {"video": row["video"], "fps": row.get("fps")}
    if isinstance(row["video"], list):
        video = {"video": [*map(read_media, row["video"])], "fps": row.get("fps", LIST_FPS)}
    if "frames" in row:
        return video | {"cue": tuple(row["frames"])}
    if "window" in row:
        return video | {"window": tuple(row["window"])}
    if "frame_ranges" in row:
        file = None if isinstance(row["video"], list) else row.get("file_fps") or VideoFile(row["video"]).fps
        rate = file or video["fps"]
        first, last = min(first for first, _ in row["frame_ranges"]), max(last for _, last in row["frame_ranges"])
        return video | {"window": (first / rate, last / rate)}
    return video | {"cue": ()}


def _images(row: Mapping[str, Any], entry: SourceEntry) -> dict[str, Any]:
    size, *_ = map(upright_size, row["images"])  # a seed has none that cannot be read
    corners = [box["xyxy"] for box in row.get("boxes", ())]
    around = [pick(sides) for pick, sides in zip((min, min, max, max), zip(*corners, strict=True), strict=False)]
    shares = [corner / side for corner, side in zip(around, (*size, *size), strict=False)]
    return {
        "images": tuple(map(read_media, row["images"])),
        "cue": entry.inside("box", tuple(shares)) if shares else (),
        "candidates": tuple(entry.box("candidates", size, box) for box in row.get("candidates", ())),
        "text_height": entry.height("text_height", size[1]),
    }
