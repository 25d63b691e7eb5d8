"""A data set's figures and some of its trajectories as one self-contained HTML page."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.inspection.described import described
from data_pipeline.inspection.terminal import LEGEND, figure_lines
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.report.entries import TokenTexts
from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.text import escape
from pixel_reasoner_jax.report.trajectory_html import trajectory_html

STYLE = """<style>
.mask .trained { color: var(--good); } .mask .masked { color: var(--bad); }
.mask .observation .text, .mask .observation .role, .mask .context { color: var(--soft); }
</style>"""


def inspection_page(figures: Mapping[str, Any], drafts: Sequence[Draft], model: str | os.PathLike | None = None) -> str:
    """The page, as HTML.

    Args:
      figures: from `summarize`.
      drafts: trajectories that are shown, with the loss mask in colors.
      model: folder with the tokenizer that wrote the tokens that a run has stored with them.
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in figure_lines(figures))
    legend = " · ".join(f'<span class="{label}">{escape(text)}</span>' for label, text in LEGEND.items())
    title = f"{figures['kind']} records in {figures['path']}"
    table = f'<div class="card scroll"><table><tbody>{rows}</tbody></table></div>'
    texts = TokenTexts(model)
    cards = "".join(_card(draft, texts) for draft in drafts)
    return document(title, f'{STYLE}<h1>{escape(title)}</h1>{table}<div class="mask"><p>{legend}</p>{cards}</div>')


def _card(draft: Draft, texts: TokenTexts) -> str:
    try:
        trajectory, facts = described(draft, draft.kind)
    except UserError:  # tokens that do not fit together are no reason to show nothing
        trajectory, facts = described(dataclasses.replace(draft, attributes={}), draft.kind)
    return trajectory_html(trajectory, facts=facts, texts=texts)
