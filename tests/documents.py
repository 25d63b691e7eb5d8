"""What the documents of `rl` name."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY

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
