"""A self-contained HTML page: one style sheet for light and dark, no script, nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence

from pixel_reasoner_jax.report.style import STYLE
from pixel_reasoner_jax.report.text import escape
from pixel_reasoner_jax.report.trajectory_html import trajectory_html
from pixel_reasoner_jax.trajectory import Trajectory

# Scripts are forbidden and nothing may be fetched, whatever a model wrote into its answer.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = (
    STYLE
    + """\
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 6px; }
h2 { font-size: 19px; letter-spacing: -0.01em; margin: 44px 0 6px; }
h3 { font-size: 15px; margin: 0; }
p { margin: 0 0 10px; }
.lead, .note { color: var(--soft); max-width: 82ch; }
.note { font-size: 13.5px; max-width: 96ch; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 20px; margin: 14px 0; }
.scroll { overflow-x: auto; }

table { border-collapse: collapse; width: 100%; min-width: 620px; table-layout: fixed;
  font-variant-numeric: tabular-nums; }
th, td { padding: 10px 14px; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-size: 12.5px; font-weight: 600; color: var(--soft); }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { width: 27%; }
th:first-child, td:first-child { text-align: left; padding-left: 4px; }
tbody th { font-size: 15px; font-weight: 500; color: var(--ink); }
tr.best > * { font-weight: 650; }
.scores { table-layout: auto; } .scores td { white-space: nowrap; }
.part th:first-child { padding-left: 22px; font-weight: 400; color: var(--soft); }
.meter { display: block; height: 4px; margin-top: 5px; border-radius: 2px; background: var(--wash); }
.meter i { display: block; height: 100%; border-radius: 2px; background: var(--accent); }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 14px; }
.charts .card { margin: 0; padding: 16px 16px 10px; }
.charts h3 { margin-bottom: 2px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft); margin-bottom: 6px; }
.legend i { display: inline-block; width: 16px; height: 3px; border-radius: 2px; vertical-align: 3px;
  margin-right: 7px; }
.chart { width: 100%; height: auto; display: block; font-size: 11.5px; }
.chart polyline { fill: none; stroke: currentColor; stroke-linejoin: round; stroke-linecap: round; }
.chart .line { stroke-width: 2.25; } .chart .faint { stroke-width: 1; opacity: 0.28; }
.chart .dot { fill: currentColor; opacity: 0; } .chart .dot:hover { opacity: 1; }

.trajectory { padding: 16px 20px 18px; }
.trajectory header { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 8px; font-size: 12.5px;
  margin-bottom: 6px; }
.stage { font-weight: 650; font-size: 13px; margin-right: 4px; }
.question { font-size: 16px; line-height: 1.4; margin-bottom: 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: minmax(0, 290px) minmax(0, 1fr); gap: 22px; align-items: start; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 22px; align-items: start; }
@media (max-width: 720px) { main { padding: 24px 14px 48px; } .columns { grid-template-columns: minmax(0, 1fr); }
  .charts { grid-template-columns: minmax(0, 1fr); } }
.scenes { display: grid; gap: 12px; }
.stack { position: relative; width: min(100%, var(--w)); }
.stack img { display: block; width: 100%; height: auto; border-radius: 6px; outline: 1px solid var(--rule); }
.stack svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.seen .stack { width: min(45%, var(--w)); } .seen img { image-rendering: pixelated; }
.strip { display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 6px; } .strip .stack { width: min(var(--w), 150px);
  }
.scenes .strip .stack { width: 88px; }
.operation { color: inherit; }
.operation summary { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 8px; color: inherit; }
.prompt { margin-top: 10px; }
.settings { columns: 320px 2; column-gap: 32px; font-size: 13px; }
.settings div { display: flex; justify-content: space-between; gap: 12px; border-bottom: 1px solid var(--rule);
  padding: 3px 0; break-inside: avoid; }
.settings span:last-child { text-align: right; overflow-wrap: anywhere; min-width: 0; }
.settings span:first-child { color: var(--soft); }
footer { margin-top: 48px; font-size: 12.5px; color: var(--faint); }
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


def trajectories_page(title: str, trajectories: Sequence[Trajectory], correct: Sequence[float] | None = None) -> str:
    """A page of trajectories, one after another; `correct` holds a score for each, if they were scored."""
    scores = correct if correct is not None else [None] * len(trajectories)
    cards = [trajectory_html(t, correct=score) for t, score in zip(trajectories, scores, strict=True)]
    return document(title, f"<h1>{escape(title)}</h1>{''.join(cards)}")
