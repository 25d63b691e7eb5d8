"""Figures and trajectories of a data set as a page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.inspection.segments import Mark, Segment, segments
from data_pipeline.inspection.terminal import LEGEND, lines
from pixel_reasoner_jax.report.images import data_uri, fit, open_image
from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.text import escape

SIDE, MAX_BYTES = 320, 40_000  # of a picture: pixels of its longer side, encoded bytes
STYLE = """<style>
.segment { white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 4px; }
.segment.trained { background: var(--good-wash); color: var(--good); }
.segment.masked { background: var(--bad-wash); color: var(--bad); text-decoration: none; }
.segment.context { color: var(--soft); }
</style>"""


def inspection_page(figures: Mapping[str, Any], drafts: Sequence[Draft]) -> str:
    """A page of a data set's figures and some of its trajectories."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in lines(figures))
    marks = " ".join(f'<span class="segment {mark}">{escape(text)}</span>' for mark, text in LEGEND.items())
    title = f"{figures['kind']} records in {figures['directory']}"
    body = f'<h1>{escape(title)}</h1><div class="card scroll"><table><tbody>{rows}</tbody></table></div>'
    return document(title, f"{STYLE}{body}<p>{marks}</p>{''.join(map(_card, drafts))}")


def _card(draft: Draft) -> str:
    chips = f'<span class="chip">{escape(draft.kind)}</span><span class="where">{escape(draft.query_id)}</span>'
    turns = "".join(
        f'<div class="turn"><span class="role">{escape(message["role"])}</span>'
        f"{''.join(map(_piece, segments(message)))}</div>"
        for message in draft.messages
    )
    question = f'<h3 class="question">{escape(draft.question)}</h3>'
    return f'<article class="card trajectory"><header>{chips}</header>{question}{turns}</article>'


def _piece(segment: Segment) -> str:
    if segment.text:
        title = ' title="carries no loss"' if segment.mark == Mark.MASKED else ""
        return f'<span class="segment {segment.mark}"{title}>{escape(segment.text)}</span>'
    pictures = segment.media if isinstance(segment.media, list) else [segment.media]
    return f'<div class="strip">{"".join(map(_picture, pictures))}</div>'


def _picture(source: Any) -> str:
    image = open_image(source)
    if image is None:
        return '<p class="missing">A video, or an image that is not available.</p>'
    shown = fit(image, SIDE)
    return (
        f'<figure style="--w:{shown.width}px"><div class="stack"><img src="{data_uri(image, SIDE, MAX_BYTES)}"'
        f' width="{shown.width}" height="{shown.height}" alt=""></div>'
        f"<figcaption>{image.width} × {image.height} px</figcaption></figure>"
    )
