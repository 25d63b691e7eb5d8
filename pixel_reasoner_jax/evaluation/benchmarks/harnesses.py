"""What several harnesses share: VLMEvalKit's tables, and the words of prompts."""

from __future__ import annotations

from pixel_reasoner_jax.evaluation.benchmarks.base import Form
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.options import index_of_letter
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError

TSV_CHOICES = Form("VLMEvalKit's table", ("*.tsv",), "read_table", ("question", "A", "B", "answer"), ("index",))
TSV_OPEN = Form("VLMEvalKit's table", ("*.tsv",), "read_table", ("question", "answer"), ("index",))

VLMEVALKIT_CHOICE = Prompt(
    "Question: {question}\nOptions:\n{options}\nPlease select the correct answer from the options above. \n",
    "{letter}. {text}",
)
SHORT_ANSWER = Prompt("{question}\nAnswer the question using a single word or phrase.")
MME_CHOICE = Prompt(
    "{question} The choices are listed below:\n{options}\nSelect the best answer to the above multiple-choice question"
    " based on the image. Respond with only the letter (A, B, C, D, or E) of the correct option. \nThe best answer is:"
)


def read_choices(row: Row) -> Item:
    """A row with `question`, options in columns A, B, …, `answer` (a letter), and an image in base64."""
    options = row.lettered()
    if len(options) < 2:
        raise RowError("it has fewer than two options")
    right = index_of_letter(row.text("answer"), options)
    return Item("", row.text("question"), tuple(options), right, images=row.embedded())


def read_open(row: Row) -> Item:
    """A row with `question`, `answer` (a text, or a list written as text; none is withheld), and an image in base64."""
    answers = row.answers("answer") if row.get("answer") is not None else ()
    return Item("", row.text("question"), answers=answers, images=row.embedded())
