"""A data set's figures and some of its trajectories as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.inspection.described import described
from data_pipeline.inspection.terminal import LEGEND, figure_lines
from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.text import escape
from pixel_reasoner_jax.report.trajectory_html import trajectory_html

STYLE = """<style>
.mask .trained { color: var(--good); } .mask .masked { color: var(--bad); }
.mask .observation .text, .mask .observation .role, .mask .context { color: var(--soft); }
</style>"""


def inspection_page(figures: Mapping[str, Any], drafts: Sequence[Draft]) -> str:
    """The page, as HTML: `figures` from `summarize`, then `drafts` with the loss mask in colors."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in figure_lines(figures))
    legend = " · ".join(f'<span class="{label}">{escape(text)}</span>' for label, text in LEGEND.items())
    title = f"{figures['kind']} records in {figures['path']}"
    table = f'<div class="card scroll"><table><tbody>{rows}</tbody></table></div>'
    cards = "".join(map(_card, drafts))
    return document(title, f'{STYLE}<h1>{escape(title)}</h1>{table}<div class="mask"><p>{legend}</p>{cards}</div>')


def _card(draft: Draft) -> str:
    trajectory, facts = described(draft, draft.kind)
    return trajectory_html(trajectory, facts=facts)
