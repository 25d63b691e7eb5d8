"""Figures for documents: several charts with one legend, as an SVG file that needs no page around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pixel_reasoner_jax.report.charts import HEIGHT, LEFT, WIDTH, Band, Points, line_chart
from pixel_reasoner_jax.report.text import escape

COLORS = ("#2563eb", "#d9480f", "#0f8a7e", "#7c3aed", "#a16207", "#c2255c", "#4d7c0f", "#475569")
"""Of the series, in turn; each can be told from its neighbours in gray too."""

TITLE, LEGEND = 30, 20  # height of a panel's title, and of a line of the legend
LETTER = 6.6  # width of a letter of the legend, at most

_STYLE = """
svg { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
.paper { fill: #ffffff; } .title { font-size: 15px; font-weight: 600; fill: #1b2230; }
.entry { fill: #5c6675; } .swatch { stroke-width: 3; stroke: currentColor; }
.grid { stroke: #e3e6eb; } .axis { stroke: #8a94a3; } .tick { fill: #5c6675; }
.label { fill: #5c6675; paint-order: stroke; stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round; }
.reference { stroke: #8a94a3; stroke-dasharray: 5 4; }
polyline { fill: none; stroke: currentColor; stroke-linejoin: round; stroke-linecap: round; }
.line { stroke-width: 2.25; } .faint { stroke-width: 1; opacity: 0.28; }
.band { fill: currentColor; opacity: 0.15; stroke: none; }
"""


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart of a figure.

    Attributes:
      title: what y is.
      series: name to (x, y) points; the same names in all panels of a figure.
      bands: name to (x, low, high).
      x_label: what x counts.
      y_range: None: from 0, or from the lowest value where that is below, to the highest value.
      reference: (label, y) of a dashed horizontal line.
    """

    title: str
    series: Mapping[str, Points]
    bands: Mapping[str, Band] = dataclasses.field(default_factory=dict)
    x_label: str = "episode"
    y_range: tuple[float, float] | None = None
    reference: tuple[str, float] | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest y of the axis."""
        if self.y_range is not None:
            return self.y_range
        values = [y for points in self.series.values() for _, y in points]
        values += [y for band in self.bands.values() for _, *edges in band for y in edges]
        low, high = min([0.0, *values]), max([0.0, *values])
        return low, high if high > low else low + 1.0


def figure(panels: Sequence[Panel], columns: int = 2) -> str:
    """An SVG document of panels in rows, under the legend of their series."""
    columns = min(columns, len(panels))
    width, names = columns * WIDTH, list(dict.fromkeys(name for panel in panels for name in panel.series))
    legend, lines = _legend(names, width)
    top, height = lines * LEGEND + 10, HEIGHT + TITLE
    total = top + -(-len(panels) // columns) * height
    variables = " ".join(f"--series-{k}: {COLORS[(k - 1) % len(COLORS)]};" for k in range(1, len(names) + 1))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}">',
        f"<style>:root {{ {variables} }}{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{total}"/>{legend}',
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, y = column * WIDTH, top + row * height
        chart = line_chart(
            {name: panel.series.get(name, ()) for name in names},
            x_label=panel.x_label,
            y_range=panel.limits,
            reference=panel.reference,
            bands=panel.bands,
            dots=False,
        )
        chart = chart.replace("<svg ", f'<svg x="{left}" y="{y + TITLE}" width="{WIDTH}" height="{HEIGHT}" ', 1)
        out.append(f'<text class="title" x="{left + LEFT}" y="{y + TITLE - 8}">{escape(panel.title)}</text>{chart}')
    return "".join(out) + "</svg>\n"


def _legend(names: Sequence[str], width: float) -> tuple[str, int]:
    """The legend's SVG, and in how many lines it is."""
    out, x, line = [], float(LEFT), 1
    for number, name in enumerate(names, 1):
        entry = 30 + LETTER * len(name) + 16
        if x > LEFT and x + entry > width:
            x, line = float(LEFT), line + 1
        y = line * LEGEND
        out.append(
            f'<g style="color:var(--series-{number})">'
            f'<line class="swatch" x1="{x:.0f}" x2="{x + 22:.0f}" y1="{y - 4}" y2="{y - 4}"/></g>'
            f'<text class="entry" x="{x + 28:.0f}" y="{y}">{escape(name)}</text>'
        )
        x += entry
    return "".join(out), line
