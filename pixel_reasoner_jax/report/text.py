"""Untrusted text on its way to a terminal, a page or a table."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.trajectory import OperationRecord

# Control characters but tab and newline, and those that reverse the direction of what follows them: a terminal obeys
# the former (escape sequences move the cursor, set its title, answer back), a reader is misled by the latter.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

MOST_DECIMALS = 4  # of a figure in a table


def printable(text: Any) -> str:
    """Text that a terminal only shows: control characters become U+FFFD, lone surrogates `?`."""
    return _CONTROL.sub("\ufffd", str(text).encode("utf-8", "replace").decode("utf-8"))


def escape(text: Any) -> str:
    """`printable` text made safe for HTML element content and quoted attributes."""
    return html.escape(printable(text), quote=True)


def counted(count: int, one: str, many: str) -> str:
    """A number with what it counts: "1 item was", "2 items were"."""
    return f"{count:,} {one if count == 1 else many}"


def arguments_text(record: OperationRecord) -> str:
    """The arguments of a call as `name = value, …`; empty if the call could not be parsed."""
    arguments = record.arguments or {}
    return ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())


def sizes_text(sizes: Sequence[tuple[int, int]]) -> str:
    """The (width, height) of returned images in words: "308 × 280 px", "3 of 560 × 308 px"; "done" for none."""
    runs = [(size, len(list(run))) for size, run in itertools.groupby(sizes)]
    words = [f"{width} × {height} px" if n == 1 else f"{n} of {width} × {height} px" for (width, height), n in runs]
    return ", ".join(words) or "done"


def figures_table(figures: Mapping[str, Mapping[str, float | None]], columns: Mapping[str, str]) -> str:
    """A plain text table: a row for each name in `figures`, a column for each key of `columns` with its heading."""
    rows = [["", *columns.values()]]
    for name, values in figures.items():
        numbers = (values.get(key) for key in columns)
        rows.append([name, *("–" if number is None else f"{number:.3f}" for number in numbers)])
    return plain_table(rows)


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text: the first row is the heading, the first column is left-aligned, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])


def decimals(interval: Sequence[float]) -> int:
    """Decimals of a figure that its interval (low, high) allows: down to the second digit of half its width."""
    half = (interval[1] - interval[0]) / 2
    if half <= 0.0:
        return MOST_DECIMALS
    return min(max(1 - math.floor(math.log10(half) + 1e-9), 0), MOST_DECIMALS)


def interval_text(mean: float | None, interval: Sequence[float] | None, sign: str = "") -> str:
    """A figure and its interval as "0.843 [0.785, 0.890]", in as many digits as the interval allows; "–" without one.

    Args:
      mean, interval: the figure and (low, high).
      sign: "+" for differences, which show theirs.
    """
    if mean is None or interval is None:
        return "–"
    form = f"{sign}.{decimals(interval)}f"
    mean, low, high = (format(value + 0.0, form) for value in (mean, *interval))
    return f"{mean} [{low}, {high}]"


def p_text(p: float | None) -> str:
    """A p-value in the digits that mean something."""
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
