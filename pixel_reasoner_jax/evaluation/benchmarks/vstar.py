"""V* bench: what colour, what material, which side of what, of small things in large photos."""

from __future__ import annotations

import dataclasses
import pathlib

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.harnesses import TSV_CHOICES, VLMEVALKIT_CHOICE, read_choices
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.options import index_of_letter, split_text
from pixel_reasoner_jax.evaluation.benchmarks.released import RELEASED, read_released
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError

SUBSETS = ("direct_attributes", "relative_position")
SIZE = (191,)
IMAGE_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png", ".webp")
INSTRUCTION = "Answer with the option's letter from the given choices directly."


class VStar(Benchmark):
    """V* bench: 115 questions about attributes, 76 about positions.

    In `test_questions.jsonl` the options are shuffled. In the JSON file of each image the right option is the first
    one, and is shuffled here. Category `subset`.
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
        return Item("", question, tuple(options), right, images=row.images("image"))

    def read_image_file(self, row: Row) -> Item:
        places = [f"{row.text('file')}{suffix}" for suffix in IMAGE_SUFFIXES]
        options = row.texts("options")
        if len(options) < 2:
            raise RowError("it has fewer than two options")
        return Item("", row.text("question"), tuple(options), 0, images=(row.image(places[0], lambda _: places),))

    def read_table(self, row: Row) -> Item:
        return read_choices(row)

    def read_released(self, row: Row) -> Item:
        return read_released(row, self.name, choices=True)
