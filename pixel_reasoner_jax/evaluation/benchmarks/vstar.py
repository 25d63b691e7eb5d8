"""V* bench: what colour, what material, which side of what, of small things in large photos."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.harnesses import TSV_CHOICES, VLMEVALKIT_CHOICE, read_choices
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.options import index_of_letter, split_text
from pixel_reasoner_jax.evaluation.benchmarks.released import RELEASED, read_released
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError
from pixel_reasoner_jax.files import resolve_inside
from pixel_reasoner_jax.query import FractionBox, fraction_box, smallest_box

SUBSETS = ("direct_attributes", "relative_position")
SIZE = (191,)
IMAGE_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png", ".webp")
MAX_BYTES = 2**20  # of the JSON file of an image
INSTRUCTION = "Answer with the option's letter from the given choices directly."


class VStar(Benchmark):
    """V* bench: 115 questions about attributes, 76 about positions.

    In `test_questions.jsonl` the options are shuffled. In the JSON file of each image the right option is the first
    one, and is shuffled here. Category `subset`. That file has the boxes of the objects that are asked about, too; of
    several the smallest is the item's.
    """

    name = "vstar"
    title = "V* bench"
    forms = (
        Form(
            "the list of questions",
            ("test_questions.jsonl",),
            "read_text",
            ("text", "label", "image"),
            ("question_id",),
            sizes=SIZE,
        ),
        Form(
            "a JSON file for every image",
            (tuple(f"{subset}/*.json" for subset in SUBSETS), "sa_*.json"),
            "read_image_file",
            ("question", "options"),
            ("file",),
            row_files=True,
            gold_first=True,
            sizes=SIZE,
        ),
        Form(
            "embedded images",
            ("*.parquet", "data/*.parquet"),
            "read_text",
            ("text", "label", "image"),
            ("question_id",),
            sizes=SIZE,
        ),
        dataclasses.replace(TSV_CHOICES, sizes=SIZE),
        RELEASED,
    )
    scorer = "choice"
    scorers = (
        "choice",
        "lmms-eval-letter",
        "vlmevalkit-letter",
        "deepeyes",
        "chain-of-focus",
        "mini-o3",
        "pixel-reasoner",
    )
    prompts = {
        "plain": Prompt(f"{{question}}\n{{options}}\n{INSTRUCTION}"),
        "lmms-eval": Prompt(f"{{question}}\n{{options}}\n{INSTRUCTION}", "{letter}. {text}"),
        "vlmevalkit": VLMEVALKIT_CHOICE,
    }

    def categories(self, row: Row) -> dict[str, str]:
        subset = row.get("category") or pathlib.PurePath(str(row.path)).parent.name
        return {"subset": str(subset)} if subset in SUBSETS else {}

    def read_text(self, row: Row) -> Item:
        question, options = split_text(row.text("text"))
        if not options:
            raise RowError("the text lists no options")
        right = index_of_letter(row.text("label"), options)
        images = row.images("image")
        return Item("", question, tuple(options), right, images=images, object_box=_beside(row, images[0]))

    def read_image_file(self, row: Row) -> Item:
        places = [f"{row.text('file')}{suffix}" for suffix in IMAGE_SUFFIXES]
        options = row.texts("options")
        if len(options) < 2:
            raise RowError("it has fewer than two options")
        image = row.image(places[0], lambda _: places)
        where = _smallest(row.get("bbox"), row.pictures.open(image).size)
        return Item("", row.text("question"), tuple(options), 0, images=(image,), object_box=where)

    def read_table(self, row: Row) -> Item:
        return read_choices(row)

    def read_released(self, row: Row) -> Item:
        return read_released(row, self.name, choices=True)


def _beside(row: Row, image: str | bytes) -> FractionBox | None:
    """The box of the file beside an image; None where there is none that can be read."""
    if isinstance(image, bytes):
        return None
    try:
        path = resolve_inside(os.path.splitext(image)[0] + ".json", row.folder)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            fields = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return _smallest(fields.get("bbox"), row.pictures.open(image).size) if isinstance(fields, dict) else None


def _smallest(boxes: Any, size: tuple[int, int]) -> FractionBox | None:
    """The smallest of some boxes, each left, top, width and height in pixels; what is none is left out."""
    found = []
    for box in boxes if isinstance(boxes, list) else ():
        if isinstance(box, list) and len(box) == 4 and all(isinstance(number, int | float) for number in box):
            left, top, width, height = box
            found.append(fraction_box((left, top, left + width, top + height), *size))
    return smallest_box(found)
