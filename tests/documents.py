"""What the documents hold: links, commands, blocks of code, and the names of `rl`."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

from tests.conftest import REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "examples" / "README.md"]
DOCUMENTS += sorted((REPOSITORY / "docs").glob("*.md"))
RL = REPOSITORY / "docs" / "rl.md"


def cells(heading: str) -> list[str]:
    """The first cells of the tables of docs/rl.md whose first column has this heading."""
    found, inside = [], False
    for line in RL.read_text(encoding="utf-8").splitlines():
        if line.startswith("|") and not set(line) <= set("|-"):
            cell = line.split("|")[1].strip()
            inside = inside or cell == heading
            if inside and cell != heading:
                found.append(cell)
        elif not line.startswith("|"):
            inside = False
    return found


def documented_metrics() -> set[str]:
    """Names of metrics as docs/rl.md has them; capitals stand for any text."""
    text = RL.read_text(encoding="utf-8")
    run = text[text.index("### The run") : text.index("## Knobs")]
    names = {name for cell in [*cells("metric"), run] for name in re.findall(r"`(\w+)`", cell)}
    return names | {f"{name}_max" for name in names if name.startswith("logprob_difference_")}


def undocumented(metrics) -> set[str]:
    """Those of a line of metrics.jsonl that docs/rl.md does not name."""
    patterns = [re.sub(r"[A-Z]+", r"\\w+", name) for name in documented_metrics()]
    return {name for name in metrics if not any(re.fullmatch(pattern, name) for pattern in patterns)}


def blocks(document: pathlib.Path) -> Iterator[tuple[str, str]]:
    """The blocks of code of a document: the language, "" where they are only indented, and the text."""
    text = document.read_text(encoding="utf-8")
    for _, language, body in re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        yield language, body
    for body in re.findall(r"(?<=\n\n)(?: {4}.*(?:\n|\Z)|\n(?= {4}))+", without_fences(text)):
        yield "", re.sub(r"^ {4}", "", body, flags=re.MULTILINE)


def without_fences(text: str) -> str:
    """A document without its fenced blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def prose(document: pathlib.Path) -> str:
    """A document without its blocks of code."""
    return re.sub(
        r"(?<=\n\n) {4}.*(?:\n {4}.*|\n(?=\n {4}))*", "", without_fences(document.read_text(encoding="utf-8"))
    )
