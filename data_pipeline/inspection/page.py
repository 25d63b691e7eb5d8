"""A data set's figures and some of its trajectories as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.inspection.logged import logged_text
from data_pipeline.inspection.loss_labels import LabeledItem, LossLabel, labeled_items
from data_pipeline.inspection.terminal import LEGEND, figure_lines
from pixel_reasoner_jax.report.images import data_uri, open_image, thumbnail
from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.text import escape

PICTURE_SIDE, PICTURE_BYTES = 320, 40_000  # of a picture: pixels of its longer side, encoded bytes
STYLE = """<style>
.segment { white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 4px; }
.segment.trained { background: var(--good-wash); color: var(--good); }
.segment.masked { background: var(--bad-wash); color: var(--bad); text-decoration: none; }
.segment.context { color: var(--soft); }
</style>"""


def inspection_page(figures: Mapping[str, Any], drafts: Sequence[Draft]) -> str:
    """The page, as HTML: `figures` from `summarize`, then `drafts` with the loss mask in colors."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in figure_lines(figures))
    legend = " ".join(f'<span class="segment {label}">{escape(text)}</span>' for label, text in LEGEND.items())
    title = f"{figures['kind']} records in {figures['path']}"
    body = f'<h1>{escape(title)}</h1><div class="card scroll"><table><tbody>{rows}</tbody></table></div>'
    return document(title, f"{STYLE}{body}<p>{legend}</p>{''.join(map(_card, drafts))}")


def _card(draft: Draft) -> str:
    chips = f'<span class="chip">{escape(draft.kind)}</span><span class="where">{escape(draft.query_id)}</span>'
    turns = "".join(
        f'<div class="turn"><span class="role">{escape(message["role"])}</span>'
        f"{''.join(map(_item, labeled_items(message)))}</div>"
        for message in draft.messages
    )
    question = f'<h3 class="question">{escape(draft.question)}</h3>'
    logged = f"<p>{escape(text)}</p>" if (text := logged_text(draft)) else ""
    return f'<article class="card trajectory"><header>{chips}</header>{question}{logged}{turns}</article>'


def _item(item: LabeledItem) -> str:
    if item.text:
        title = ' title="carries no loss"' if item.label == LossLabel.MASKED else ""
        return f'<span class="segment {item.label}"{title}>{escape(item.text)}</span>'
    pictures = item.media if isinstance(item.media, list) else [item.media]
    return f'<div class="strip">{"".join(map(_picture, pictures))}</div>'


def _picture(source: Any) -> str:
    image = open_image(source)
    if image is None:
        return '<p class="missing">A video, or an image that is not available.</p>'
    shown, uri = thumbnail(image, PICTURE_SIDE), data_uri(image, PICTURE_SIDE, PICTURE_BYTES)
    return (
        f'<figure style="--w:{shown.width}px"><div class="stack"><img src="{uri}"'
        f' width="{shown.width}" height="{shown.height}" alt=""></div>'
        f"<figcaption>{image.width} × {image.height} px</figcaption></figure>"
    )
