"""TallyQA: how many of something are there."""

from __future__ import annotations

import dataclasses
import json

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.harnesses import TSV_OPEN, read_open
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.released import RELEASED, read_released
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError

SIZE = (38_589,)
FOLDERS = ("", "images", "tallyqa_images")


class TallyQA(Benchmark):
    """TallyQA's test set, simple and complex questions together; category `subset` tells them apart.

    Papers give the figure of `complex`. The training set says of no question whether it is simple.
    """

    name = "tallyqa"
    title = "TallyQA"
    forms = (
        Form(
            "the original",
            ("test.json", "train.json"),
            "read_original",
            ("image", "question", "answer"),
            ("image_id", "question_id"),
            sizes=SIZE,
        ),
        dataclasses.replace(RELEASED, sizes=()),
        dataclasses.replace(TSV_OPEN, sizes=SIZE),
    )
    scorer = "count"
    scorers = ("count", "vlmevalkit-count", "big-vision-count", "answer", "pixel-reasoner")
    prompts = {
        "plain": Prompt("{question}"),
        "vlmevalkit": Prompt("{question}\nAnswer the question using a single number."),
        "big-vision": Prompt("answer en {question}"),
    }

    def categories(self, row: Row) -> dict[str, str]:
        simple = row.get("issimple")
        if isinstance(simple, str):
            simple = {"true": True, "false": False}.get(simple.lower())
        return {"subset": "simple" if simple else "complex"} if isinstance(simple, bool) else {}

    def read_original(self, row: Row) -> Item:
        return _counted(
            Item("", row.text("question"), answers=row.answers("answer"), images=row.images("image", *FOLDERS))
        )

    def read_table(self, row: Row) -> Item:
        return _counted(read_open(row))

    def read_released(self, row: Row) -> Item:
        return _counted(read_released(row, self.name))


def _counted(item: Item) -> Item:
    """The item with its answers as whole numbers in digits.

    Raises:
      RowError: an answer is no count.
    """
    counts = []
    for answer in item.answers:
        try:
            count = float(answer)
        except ValueError:
            count = -1.0
        if not 0 <= count < 1e6 or count != int(count):
            raise RowError(f"the answer {json.dumps(answer)[:80]} is no count")
        counts.append(str(int(count)))
    if not counts:
        raise RowError("it has no answer")
    return dataclasses.replace(item, answers=tuple(counts))
