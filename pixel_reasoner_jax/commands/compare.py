"""`pixel-reasoner compare`: evaluations of the same items beside each other, and the items that flipped."""

from __future__ import annotations

import argparse
import json
import sys

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.compare import compare
from pixel_reasoner_jax.files import check_output, write_text
from pixel_reasoner_jax.report.comparison_page import FlippedItem, comparison_page
from pixel_reasoner_jax.report.score_tables import comparison_tables
from pixel_reasoner_jax.report.text import printable

LINE = 100  # characters of a question or an answer that the terminal shows


def run(args: argparse.Namespace) -> None:
    """Tables, the flipped items, warnings on standard error, and one JSON line with all figures."""
    if args.show < 0:
        raise UserError(f"--show must be at least 0, got {args.show}")
    if args.html:
        check_output(args.html)
    found = compare(args.results, args.show)
    for warning in found.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    print(comparison_tables(found.figures))
    for item in found.flipped:
        print(f"\n{_flipped_text(item)}")
    if args.html:
        print(f"\npage: {write_text(args.html, comparison_page(found.figures, found.flipped, found.warnings))}")
    print(json.dumps({**found.figures, "warnings": found.warnings}, allow_nan=False))


def _flipped_text(item: FlippedItem) -> str:
    lines = [f"{_line(item.benchmark)} {_line(item.id)}: {_line(item.question)} Expected: {_line(item.expected)}"]
    for response in item.responses:
        answer = "no answer" if response.answer is None else _line(response.answer)
        lines.append(f"  {_line(response.name)}: {answer} (score {response.score:.3g})")
    return "\n".join(lines)


def _line(text: str) -> str:
    """Text in one line that a terminal only shows."""
    text = " ".join(printable(text).split())
    return text if len(text) <= LINE else f"{text[: LINE - 1]}…"
