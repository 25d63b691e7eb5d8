"""A page that compares evaluations: their scores, the differences, and items that flipped with both responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.score_tables import comparison_rows
from pixel_reasoner_jax.report.text import escape
from pixel_reasoner_jax.report.trajectory_html import trajectory_html
from pixel_reasoner_jax.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class FlippedResponse:
    """One evaluation's response to a flipped item.

    Attributes:
      name: of the evaluation.
      score: of the item, the mean of its responses' scores.
      answer: that was taken from the response shown; None if it has none.
      response: its text, "" if it was not kept.
      trajectory: all of it; None if it was not kept.
    """

    name: str
    score: float
    answer: str | None
    response: str
    trajectory: Trajectory | None = None


@dataclasses.dataclass(frozen=True)
class FlippedItem:
    """An item that one of two evaluations has right and the other has not, the baseline's response first."""

    benchmark: str
    id: str
    question: str
    reference: str | Sequence[str]
    responses: tuple[FlippedResponse, FlippedResponse]

    @property
    def expected(self) -> str:
        """The accepted answers as one text."""
        return self.reference if isinstance(self.reference, str) else " or ".join(self.reference)


def comparison_page(comparison: Mapping[str, Any], flipped: Sequence[FlippedItem], warnings: Sequence[str]) -> str:
    """The page, as HTML.

    Args:
      comparison: figures of `evaluation.compare.compare`.
      flipped: items to show.
      warnings: sentences to show first.
    """
    title = f"{' and '.join(comparison['results'])} compared"
    tables = "".join(_table(comparison, benchmark) for benchmark in comparison["benchmarks"])
    notes = "".join(f'<p class="note">Note: {escape(warning)}.</p>' for warning in warnings)
    items = "".join(map(_item, flipped))
    differences = [found["differences"].values() for found in comparison["benchmarks"].values()]
    count = sum(found["gained"] + found["lost"] for pairs in differences for found in pairs)
    heading = f"<h2>{len(flipped)} of {count} items that flipped</h2>" if flipped else ""
    return document(title, f"<h1>{escape(title)}</h1>{notes}{tables}{heading}{items}")


def _table(comparison: Mapping[str, Any], benchmark: str) -> str:
    head, *rows = comparison_rows(comparison, benchmark)
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<h2>{escape(benchmark)}</h2><div class="card scroll"><table class="scores"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(map(_row, rows))}</tbody></table></div>"
        f'<p class="note">Differences from {escape(comparison["baseline"])} on the same items, with 95% intervals. '
        "Gained and lost items are right in one of the two alone; p is McNemar's exact test of these.</p>"
    )


def _row(row: Sequence[str]) -> str:
    name, *cells = row
    is_category = name.startswith(" ")
    return (
        f'<tr class="{"part" if is_category else "whole"}"><th scope="row">{escape(name.strip())}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    )


def _item(item: FlippedItem) -> str:
    where = f'<span class="where">{escape(item.benchmark)} {escape(item.id)}</span>'
    responses = "".join(_response(response) for response in item.responses if response.trajectory is None)
    sides = f'<div class="sides">{responses}</div>' if responses else ""
    return (
        f'<article class="card trajectory"><header>{where}</header><p class="question">{escape(item.question)}</p>'
        f'<p class="note">Expected: <b>{escape(item.expected)}</b></p>{sides}</article>'
        + "".join(
            trajectory_html(response.trajectory, correct=response.score, label=response.name)
            for response in item.responses
            if response.trajectory is not None
        )
    )


def _response(response: FlippedResponse) -> str:
    verdict = "good" if response.score >= 0.5 else "bad"
    answer = "no answer" if response.answer is None else response.answer
    text = f'<p class="text">{escape(response.response)}</p>' if response.response else ""
    return (
        f'<div class="turn"><span class="role">{escape(response.name)}</span>{text}'
        f'<p class="verdict {verdict}"><span>Answer: <b>{escape(answer)}</b></span>'
        f"<span>Score: {response.score:.3g}</span></p></div>"
    )
