"""A self-contained HTML page: one style sheet for light and dark, no script, nothing from the network."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pixel_reasoner_jax.report.entries import TokenTexts
from pixel_reasoner_jax.report.style import STYLE
from pixel_reasoner_jax.report.text import escape
from pixel_reasoner_jax.report.trajectory_html import trajectory_html
from pixel_reasoner_jax.trajectory import Trajectory

# Scripts are forbidden and nothing may be fetched, whatever a model wrote into its answer.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = (
    STYLE
    + """\
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 72px; line-height: 1.55; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 19px; letter-spacing: -0.01em; margin: 44px 0 6px; }
h3 { font-size: 15px; margin: 0; }
p { margin: 0 0 10px; }
.lead, .note { color: var(--soft); max-width: 82ch; }
.note { font-size: 13.5px; max-width: 96ch; }
.card { padding: 20px; margin: 14px 0; } .trajectory { padding: 16px 20px 18px; }
.scroll { overflow-x: auto; }
.stage { font-weight: 650; font-size: 13px; margin-right: 4px; }

.scroll table { border-collapse: collapse; width: 100%; min-width: 620px; table-layout: fixed;
  font-variant-numeric: tabular-nums; }
.scroll th, .scroll td { padding: 10px 14px; text-align: right; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
.scroll th { font-size: 12.5px; font-weight: 600; color: var(--soft); }
.scroll tbody tr:last-child > * { border-bottom: 0; }
.scroll th:first-child { width: 27%; text-align: left; padding-left: 4px; }
.scroll tbody th { font-size: 15px; font-weight: 500; color: var(--ink); }
.scroll tr.best > * { font-weight: 650; }
.scroll .scores { table-layout: auto; } .scores td { white-space: nowrap; }
.scores .part th:first-child { padding-left: 22px; font-weight: 400; color: var(--soft); }
.meter { display: block; height: 4px; margin-top: 5px; border-radius: 2px; background: var(--wash); }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 14px; }
.charts .card { margin: 0; padding: 16px 16px 10px; }
.legend { color: var(--soft); margin: 2px 0 6px; }
.chart .faint { stroke-width: 1; opacity: 0.28; } .chart .dot { opacity: 0; } .chart .dot:hover { opacity: 1; }

.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 22px; align-items: start; }
@media (max-width: 720px) { main { padding: 24px 14px 48px; }
  .columns, .charts { grid-template-columns: minmax(0, 1fr); } }
.settings { columns: 320px 2; column-gap: 32px; font-size: 13px; }
.settings div { display: flex; justify-content: space-between; gap: 12px; border-bottom: 1px solid var(--rule);
  padding: 3px 0; break-inside: avoid; }
.settings span:last-child { text-align: right; overflow-wrap: anywhere; min-width: 0; }
.settings span:first-child { color: var(--soft); }
"""
)


def document(title: str, body: str) -> str:
    """A whole page; `body` is HTML, `title` is text, which is escaped."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def trajectories_page(title: str, trajectories: Sequence[Trajectory], model: str | os.PathLike | None = None) -> str:
    """A page of trajectories, one after another; `model` is the folder with the tokenizer that wrote their tokens."""
    texts = TokenTexts(model)
    cards = [trajectory_html(trajectory, texts=texts) for trajectory in trajectories]
    return document(title, f"<h1>{escape(title)}</h1>{''.join(cards)}")
