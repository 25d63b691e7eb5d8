"""TextVQA: questions about text in photos, answered by ten annotators."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form, answers_list
from pixel_reasoner_jax.evaluation.benchmarks.harnesses import SHORT_ANSWER, TSV_OPEN, read_open
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.row import Row

SIZES = (5000, 5734, 34_602)


class TextVQA(Benchmark):
    """TextVQA: the validation set of a folder that has several; a test set by its file.

    Some of the photos lie on their side; a published list of rotations is not applied.
    """

    name = "textvqa"
    title = "TextVQA"
    forms = (
        Form(
            "the original",
            ("TextVQA_0.5.1_val.json", "TextVQA_0.5.1_test.json", "TextVQA_0.5.1_train.json"),
            "read_original",
            ("image_id", "question", "question_id"),
            ("question_id",),
            key="data",
            sizes=SIZES,
        ),
        Form(
            "embedded images",
            ("validation-*.parquet", "data/validation-*.parquet", "test-*.parquet", "data/test-*.parquet"),
            "read_embedded",
            ("question", "question_id", "image"),
            ("question_id",),
            sizes=SIZES,
        ),
        dataclasses.replace(TSV_OPEN, files=("TextVQA_VAL.tsv", "*.tsv"), sizes=SIZES),
    )
    scorer = "vqa"
    scorers = ("vqa", "vqa-simple", "answer")
    prompts = {"plain": Prompt("{question}"), "lmms-eval": SHORT_ANSWER, "vlmevalkit": SHORT_ANSWER}

    def submission(self, answers: Mapping[str, str]) -> str:
        return answers_list(answers, "question_id")

    def read_original(self, row: Row) -> Item:
        name = row.text("image_id")
        places = [f"{folder}{name}.jpg" for folder in ("train_images/", "test_images/", "")]
        if "_test" in row.path.name:
            places[:2] = reversed(places[:2])
        return _item(row, (row.image(name, lambda _: places),))

    def read_embedded(self, row: Row) -> Item:
        return _item(row, row.images("image"))

    def read_table(self, row: Row) -> Item:
        return read_open(row)


def _item(row: Row, images: tuple) -> Item:
    answers = row.answers("answers") if row.get("answers") else ()
    return Item("", row.text("question"), answers=answers, images=images)
