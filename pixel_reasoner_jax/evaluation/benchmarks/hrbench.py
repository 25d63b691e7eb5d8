"""HR-Bench: questions about photos of 4K and 8K, each asked four times with its options in another order."""

from __future__ import annotations

from typing import Any

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.harnesses import VLMEVALKIT_CHOICE, read_choices
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError

CYCLES = 4
COLUMNS = ("index", "question", "answer", "A", "B", "image")


def _forms(size: str) -> tuple[Form, ...]:
    files = (f"*{size}*.parquet", f"*/*{size}*.parquet", f"*{size}*.tsv", f"*/*{size}*.tsv", "*.parquet", "*.tsv")
    return (Form("base64 images", files, "read_row", COLUMNS, ("index",), sizes=(800,)),)


class HRBench4K(Benchmark):
    """HR-Bench 4K. Categories `subset` (single, cross) and `cycle`; the four orders of a question are one cluster."""

    name = "hrbench4k"
    title = "HR-Bench 4K"
    forms = _forms("4k")
    scorer = "choice"
    scorers = ("choice", "vlmevalkit-letter", "lmms-eval-letter", "deepeyes", "deepeyes-first", "mini-o3")
    prompts = {
        "plain": Prompt(),
        "lmms-eval": Prompt("{question}\n{options}\nAnswer the option letter directly.", "{letter}. {text}"),
        "vlmevalkit": VLMEVALKIT_CHOICE,
    }

    def categories(self, row: Row) -> dict[str, str]:
        found: dict[str, Any] = {"subset": row.get("category"), "cycle": row.get("cycle_category")}
        return {kind: str(value) for kind, value in found.items() if value is not None}

    def cluster(self, row: Row) -> str:
        try:
            index = row.integer("index")
        except RowError:
            index = row.index
        return f"question {index // CYCLES}"

    def read_row(self, row: Row) -> Item:
        return read_choices(row)


class HRBench8K(HRBench4K):
    """HR-Bench 8K, as HR-Bench 4K."""

    name = "hrbench8k"
    title = "HR-Bench 8K"
    forms = _forms("8k")
