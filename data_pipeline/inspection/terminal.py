"""A data set's figures and some of its trajectories in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import rich.cells
import rich.console
import rich.text

from data_pipeline.draft import Draft
from data_pipeline.inspection.logged import logged_text
from data_pipeline.inspection.loss_labels import LossLabel, labeled_items
from pixel_reasoner_jax.report.images import image_size
from pixel_reasoner_jax.report.text import printable

STYLES = {LossLabel.TRAINED: "green", LossLabel.MASKED: "red", LossLabel.CONTEXT: "dim"}
LEGEND = {
    LossLabel.TRAINED: "trained",
    LossLabel.MASKED: "masked: the assistant's, without loss",
    LossLabel.CONTEXT: "context",
}
MARKS = {LossLabel.TRAINED: ("[+", "+]"), LossLabel.MASKED: ("[-", "-]"), LossLabel.CONTEXT: ("", "")}
"""Stand around a text where there are no colors, as in a file."""
MAX_CONTEXT = 400  # characters of a text that is not the assistant's


def show_summary(console: rich.console.Console, figures: Mapping[str, Any]) -> None:
    """Prints the figures of `summarize`, each on a line that is not broken, in a file and a pipe either."""
    lines = [(printable(name), printable(value)) for name, value in figure_lines(figures)]
    width = max(rich.cells.cell_len(name) for name, _ in lines) + 1
    for name, value in lines:
        text = rich.text.Text(rich.cells.set_cell_size(name, width), "bold").append(
            value.replace("\n", "\n" + " " * width), "not bold"
        )
        console.print(text, soft_wrap=True)


def figure_lines(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures of `summarize` as (name, text), in the order in which they are shown."""
    for name, value in figures.items():
        if name == "lengths":
            yield from ((f"{kind} a trajectory".replace("_", " "), _spread(spread)) for kind, spread in value.items())
        elif name == "images":
            for kind, sizes in value.items():
                width, height = (_spread(sizes[side]) for side in ("width", "height"))
                yield f"{kind} size", f"{sizes['count']:,}; width {width}; height {height}"
        elif name == "operations":
            yield name, f"{_counts(value['by_name'])}; failed {value['failed']:,}"
        elif name == "unreadable":
            yield name, "\n".join([f"{len(value):,}", *value[:10]])
        elif isinstance(value, dict):
            yield name, _counts(value)
        else:
            yield name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)


def show_trajectory(console: rich.console.Console, draft: Draft) -> None:
    """Prints a conversation, each text in the color of its `LossLabel`, or within its `MARKS` where there are none."""
    title = f"{draft.query_id}  {draft.kind}  reference: {draft.reference}"
    console.print(rich.text.Text(printable(title), "bold"), soft_wrap=True)
    if logged := logged_text(draft):
        console.print(rich.text.Text(printable(logged)), soft_wrap=True)
    for message in draft.messages:
        text = rich.text.Text().append(f"{message['role']}: ", "bold")
        for item in labeled_items(message):
            words = item.text or _media(item.media)
            if item.label == LossLabel.CONTEXT and len(words) > MAX_CONTEXT:
                words = f"{words[:MAX_CONTEXT]} … ({len(words) - MAX_CONTEXT:,} characters more)"
            text.append(_marked(console, printable(words), item.label), STYLES[item.label] if item.text else "cyan")
        console.print(text, soft_wrap=True)
    console.print()


def show_legend(console: rich.console.Console) -> None:
    """Prints which color, or which mark, means what."""
    meanings = (rich.text.Text(_marked(console, LEGEND[label], label), style) for label, style in STYLES.items())
    console.print(rich.text.Text("  ").join(meanings))
    console.print()


def _marked(console: rich.console.Console, text: str, label: LossLabel) -> str:
    if console.color_system is not None and not console.no_color:
        return text
    before, after = MARKS[label]
    return f"{before}{text}{after}"


def _media(media: Any) -> str:
    if isinstance(media, list):
        return f"[{len(media)} frames]"
    size = image_size(media)
    return f"[{size[0]}x{size[1]}]" if size else "[image or video]"


def _spread(spread: Mapping[str, float]) -> str:
    return f"{spread['min']:,} to {spread['max']:,}, median {spread['median']:,.0f}, mean {spread['mean']:,.1f}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
