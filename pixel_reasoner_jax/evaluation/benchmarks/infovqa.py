"""InfographicsVQA and DocVQA: questions about infographics and scanned documents, scored by ANLS."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form, answers_list
from pixel_reasoner_jax.evaluation.benchmarks.harnesses import SHORT_ANSWER, TSV_OPEN, read_open
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.released import RELEASED, read_released
from pixel_reasoner_jax.evaluation.benchmarks.row import Row

SCORERS = ("anls", "anls-raw", "anls-exclusive")


class AnlsBenchmark(Benchmark):
    """What both have: answers of several annotators, and test sets without answers, which a server scores."""

    scorer = "anls"
    scorers = SCORERS
    prompts = {"plain": Prompt("{question}"), "lmms-eval": SHORT_ANSWER, "vlmevalkit": SHORT_ANSWER}
    kinds: tuple[tuple[str, str], ...] = ()

    def categories(self, row: Row) -> dict[str, str]:
        found = {}
        for field, kind in self.kinds:
            if row.get(field):
                found[kind] = " + ".join(sorted(row.texts(field)))
        return found

    def submission(self, answers: Mapping[str, str]) -> str:
        return answers_list(answers, "questionId")

    def read_embedded(self, row: Row) -> Item:
        return Item("", row.text("question"), answers=_answers(row), images=row.images("image"))

    def read_table(self, row: Row) -> Item:
        return read_open(row)

    def read_released(self, row: Row) -> Item:
        return read_released(row, self.name)


def _answers(row: Row) -> tuple[str, ...]:
    """None where the answers are withheld: the field is missing, null or an empty list."""
    return row.answers("answers") if row.get("answers") else ()


class InfoVQA(AnlsBenchmark):
    """InfographicsVQA: the validation set of a folder that has several; a test set by its file.

    Categories `answer_type` and `operation`, where the embedded form says them.
    """

    name = "infovqa"
    title = "InfographicsVQA"
    forms = (
        Form(
            "the original",
            (
                "infographicsVQA_val_*.json",
                "infographicVQA_val_*.json",
                "infographicsVQA_test_*.json",
                "infographicsVQA_train_*.json",
            ),
            "read_original",
            ("question", "image_local_name"),
            ("questionId",),
            key="data",
            sizes=(2801, 3288, 23_946),
        ),
        Form(
            "embedded images",
            (
                "InfographicVQA/validation-*.parquet",
                "validation-*.parquet",
                "data/validation-*.parquet",
                "InfographicVQA/test-*.parquet",
                "test-*.parquet",
            ),
            "read_embedded",
            ("questionId", "question", "image"),
            ("questionId",),
            sizes=(2801, 3288),
            without=("docId", "question_types"),
        ),
        dataclasses.replace(TSV_OPEN, files=("InfoVQA_VAL.tsv", "InfoVQA_TEST.tsv", "*.tsv"), sizes=(2801, 3288)),
        RELEASED,
    )
    scorers = (*SCORERS, "pixel-reasoner")
    kinds = (("answer_type", "answer_type"), ("operation/reasoning", "operation"))

    def read_original(self, row: Row) -> Item:
        images = row.images("image_local_name", "images", "infographicsvqa_images", "")
        return Item("", row.text("question"), answers=_answers(row), images=images)


class DocVQA(AnlsBenchmark):
    """DocVQA: the validation set of a folder that has several; a test set by its file. Category `question_type`."""

    name = "docvqa"
    title = "DocVQA"
    forms = (
        Form(
            "the original",
            (
                "val_v1.0*.json",
                "val/val_v1.0*.json",
                "test_v1.0*.json",
                "test/test_v1.0*.json",
                "train_v1.0*.json",
                "train/train_v1.0*.json",
            ),
            "read_original",
            ("question", "image"),
            ("questionId",),
            key="data",
            sizes=(5349, 5188),
        ),
        Form(
            "embedded images",
            (
                "DocVQA/validation-*.parquet",
                "validation-*.parquet",
                "data/validation-*.parquet",
                "DocVQA/test-*.parquet",
                "test-*.parquet",
            ),
            "read_embedded",
            ("questionId", "question", "image"),
            ("questionId",),
            sizes=(5349, 5188),
            without=("answer_type", "operation/reasoning"),
        ),
        dataclasses.replace(TSV_OPEN, files=("DocVQA_VAL.tsv", "DocVQA_TEST.tsv", "*.tsv"), sizes=(5349, 5188)),
    )
    kinds = (("question_types", "question_type"),)

    def read_original(self, row: Row) -> Item:
        split = row.path.name.split("_")[0]
        images = row.images("image", split, "", f"{split}/documents", "documents", "images")
        return Item("", row.text("question"), answers=_answers(row), images=images)
