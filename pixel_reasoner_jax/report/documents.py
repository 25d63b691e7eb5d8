"""Parts of Markdown documents that a program writes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, write_text


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table; the first row is the heading."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def fill_part(path: str | os.PathLike, name: str, text: str) -> None:
    """Replaces what stands between the lines `<!-- begin NAME -->` and `<!-- end NAME -->` of a document, atomically.

    Raises:
      UserError: the document does not have both lines.
    """
    path, begin, end = as_path(path), f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    before, opened, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise UserError(f"{path} has no lines {begin.strip()} and {end}: put them where this part is to stand")
    write_text(path, f"{before}{begin}\n{text}\n\n{end}{after}")
