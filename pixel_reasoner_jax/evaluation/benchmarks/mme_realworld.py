"""MME-RealWorld-Lite: monitoring, driving, remote sensing, diagrams and text in large images."""

from __future__ import annotations

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.harnesses import MME_CHOICE
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.options import index_of_letter, without_label
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError

SIZE = (1919,)


class MMERealWorldLite(Benchmark):
    """MME-RealWorld-Lite. Categories `task` (Perception, Reasoning), `subtask` and `kind`.

    Question ids repeat, so rows go by their number. A shuffle leaves the last option, "not in the image", where it is.
    """

    name = "mme_realworld_lite"
    title = "MME-RealWorld-Lite"
    forms = (
        Form(
            "the original",
            ("MME_RealWorld_Lite.json", "*[Ll]ite*.json", "*.json", "*.jsonl"),
            "read_original",
            ("Text", "Answer choices", "Ground truth", "Image"),
            sizes=SIZE,
        ),
        Form(
            "base64 images",
            ("*.parquet", "data/*.parquet"),
            "read_table",
            ("question", "multi-choice options", "answer", "bytes"),
            sizes=SIZE,
        ),
        Form("VLMEvalKit's table", ("*lite*.tsv", "*.tsv"), "read_table", ("question", "answer"), sizes=SIZE),
    )
    scorer = "choice"
    scorers = ("choice", "mme-realworld", "mme-realworld-lmms-eval", "vlmevalkit-letter")
    prompts = {"plain": Prompt(), "original": MME_CHOICE, "lmms-eval": MME_CHOICE, "vlmevalkit": MME_CHOICE}
    fixed_options = 1

    def categories(self, row: Row) -> dict[str, str]:
        task, _, kind = str(row.get("Task", "category") or "").partition("/")
        found = {"task": task, "subtask": row.get("Subtask", "l2-category"), "kind": kind or row.get("Category")}
        return {name: str(value) for name, value in found.items() if value}

    def read_original(self, row: Row) -> Item:
        images = row.images("Image", "", "data", "imgs", "images")
        return _item(row.text("Text"), row.texts("Answer choices"), row.text("Ground truth"), images)

    def read_table(self, row: Row) -> Item:
        options = row.lettered() or row.texts("multi-choice options")
        images = row.base64_image("bytes") if row.get("bytes") is not None else row.embedded()
        return _item(row.text("question"), options, row.text("answer"), images)


def _item(question: str, labelled: list[str], answer: str, images: tuple) -> Item:
    if len(labelled) < 2:
        raise RowError("it has fewer than two options")
    options = tuple(without_label(option, index) for index, option in enumerate(labelled))
    return Item("", question, options, index_of_letter(answer, options), images=images)
