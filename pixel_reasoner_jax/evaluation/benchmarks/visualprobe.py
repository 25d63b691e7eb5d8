"""VisualProbe: small things in large crowded images, in three levels."""

from __future__ import annotations

import pathlib
import re

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.released import without_tags
from pixel_reasoner_jax.evaluation.benchmarks.row import Row

LEVELS = {"hard": 106, "medium": 268, "easy": 141}  # the last two were not verified
LEVEL = re.compile("|".join(LEVELS), re.IGNORECASE)


class VisualProbe(Benchmark):
    """VisualProbe, one level or a folder of several. Category `level`.

    Its published figures are of a judge model and 32 samples; the rules here are stricter. The names of the fields were
    not verified, and both known ones are read.
    """

    name = "visualprobe"
    title = "VisualProbe"
    forms = (
        Form("the original", ("val.json", "*/val.json"), "read_row", ("problem", "solution", "images"), ("doc_id",)),
        Form(
            "a converted list", ("*.jsonl", "*/*.jsonl"), "read_row", ("question", "answer", "image"), ("question_id",)
        ),
    )
    scorer = "answer"
    scorers = ("answer", "exact")
    wants_judge = True
    prompts = {"plain": Prompt("{question}")}

    def categories(self, row: Row) -> dict[str, str]:
        level = _level(row.path) or _level(row.get("data_source")) or _level(row.get("images", "image"))
        return {"level": level} if level else {}

    def remarks(self) -> list[str]:
        levels: dict[str, int] = {}
        for index in range(len(self)):
            level = _level(self.rows.locate(index)[0]) or ""
            levels[level] = levels.get(level, 0) + 1
        return [
            f"{self.title} {level}: {count} rows, {LEVELS[level]} are published"
            for level, count in levels.items()
            if level in LEVELS and count != LEVELS[level]
        ]

    def read_row(self, row: Row) -> Item:
        field = "images" if row.get("images") is not None else "image"
        value = row.get(field)
        values = value if isinstance(value, list | tuple) else [value]
        images = tuple(row.image(one, lambda path: _places(path, row)) for one in values)
        question = without_tags(row.text("problem", "question"))
        return Item("", question, answers=row.answers("solution", "answer"), images=images)


def _level(text: object) -> str | None:
    match = LEVEL.search(str(text)) if text is not None else None
    return match[0].lower() if match else None


def _places(path: str, row: Row) -> list[str]:
    """A path as it stands, and without its first folder, below the folder and below the file's own one."""
    own = pathlib.PurePath(str(row.path)).parent.name
    rest = path.partition("/")[2] or path
    return [path, rest, f"{own}/{path}", f"{own}/{rest}"]
