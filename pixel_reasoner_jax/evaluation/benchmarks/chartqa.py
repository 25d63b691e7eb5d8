"""ChartQA: questions about charts, written by people and made of summaries."""

from __future__ import annotations

import dataclasses

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.harnesses import SHORT_ANSWER, TSV_OPEN, read_open
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.row import Row

SIZE = (2500,)
SUBSETS = ("human", "augmented")


def _original(folder: str) -> tuple[str, ...]:
    return tuple(f"{folder}test_{subset}.json" for subset in SUBSETS)


class ChartQA(Benchmark):
    """ChartQA's test set, both halves. Category `subset` (human, augmented)."""

    name = "chartqa"
    title = "ChartQA"
    forms = (
        Form(
            "the original",
            (_original("test/"), _original("ChartQA Dataset/test/"), _original("")),
            "read_original",
            ("imgname", "query", "label"),
            sizes=SIZE,
        ),
        Form(
            "embedded images",
            ("test-*.parquet", "data/test-*.parquet", "*.parquet"),
            "read_embedded",
            ("question", "answer", "image", "type"),
            sizes=SIZE,
        ),
        dataclasses.replace(TSV_OPEN, files=("ChartQA_TEST.tsv", "*.tsv"), sizes=SIZE),
    )
    scorer = "relaxed"
    scorers = ("relaxed", "relaxed-lmms-eval", "relaxed-big-vision", "answer")
    prompts = {
        "plain": Prompt("{question}"),
        "lmms-eval": Prompt("{question}\nAnswer the question with a single word."),
        "vlmevalkit": SHORT_ANSWER,
    }

    def categories(self, row: Row) -> dict[str, str]:
        named = str(row.get("type", "split") or row.path.name)
        return next(({"subset": subset} for subset in SUBSETS if subset in named), {})

    def read_original(self, row: Row) -> Item:
        images = row.images("imgname", "png", "test/png", "ChartQA Dataset/test/png")
        return Item("", row.text("query"), answers=row.answers("label"), images=images)

    def read_embedded(self, row: Row) -> Item:
        return Item("", row.text("question"), answers=row.answers("answer"), images=row.images("image"))

    def read_table(self, row: Row) -> Item:
        return read_open(row)
