"""Line charts as inline SVG: no script, no network, colours from the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pixel_reasoner_jax.report.text import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 14, 40
MAX_POINTS = 240  # more would be less than two pixels apart

Points = Sequence[tuple[float, float]]
Band = Sequence[tuple[float, float, float]]
"""(x, low, high), x ascending."""


def line_chart(
    series: Mapping[str, Points],
    *,
    x_label: str,
    y_range: tuple[float, float] = (0.0, 1.0),
    reference: tuple[str, float] | None = None,
    window: int = 1,
    first_series: int = 1,
    bands: Mapping[str, Band] | None = None,
    dots: bool = True,
) -> str:
    """An SVG line chart with axes and ticks; every point shows its values on hover.

    Args:
      series: name to (x, y) points, x ascending; points with a non-finite value are left out.
      x_label: what x counts.
      y_range: lowest and highest y of the axis; values outside are drawn at its edge.
      reference: (label, y) of a dashed horizontal line.
      window: the bold line is the mean over this many neighbouring points, with the points themselves as a faint line
        behind it; 1 draws the points only.
      first_series: the colour of the first series is the CSS variable `--series-{first_series}`, and so on.
      bands: a shaded range around a series, by its name, all of whose values are finite.
      dots: False leaves out the points that show their values.
    """
    points = {name: thin([(x, y) for x, y in p if math.isfinite(x) and math.isfinite(y)]) for name, p in series.items()}
    xs = [x for p in points.values() for x, _ in p] or [0.0, 1.0]
    low, high = min(xs), max(xs)
    high = high if high > low else low + 1
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        y = min(max(y, y_range[0]), y_range[1])
        across = (x - low) / (high - low)
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return LEFT + plot_w * across, TOP + plot_h * (1 - up)

    out = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(", ".join(series))}">']
    for y in ticks(*y_range, count=5):
        _, py = at(low, y)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 8}" y="{py + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    for x in ticks(low, high, count=7):
        px, _ = at(x, y_range[0])
        out.append(f'<line class="axis" x1="{px:.1f}" x2="{px:.1f}" y1="{TOP + plot_h}" y2="{TOP + plot_h + 4}"/>')
        out.append(f'<text class="tick" x="{px:.1f}" y="{TOP + plot_h + 18}" text-anchor="middle">{_number(x)}</text>')
    out.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{TOP + plot_h}" y2="{TOP + plot_h}"/>')
    middle = LEFT + plot_w / 2
    out.append(f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    if reference is not None:
        label, level = reference
        _, line_y = at(low, level)
        out.append(f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{line_y:.1f}" y2="{line_y:.1f}"/>')
    for k, (name, raw) in enumerate(points.items(), first_series):
        smooth = moving_average(raw, window)
        out.append(f'<g style="color:var(--series-{k})">')
        if band := (bands or {}).get(name):
            edge = [at(x, low) for x, low, _ in band] + [at(x, high) for x, _, high in reversed(band)]
            out.append(f'<polygon class="band" points="{_path(edge)}"/>')
        if window > 1 and len(raw) > 2:
            out.append(f'<polyline class="faint" points="{_path(at(*p) for p in raw)}"/>')
        out.append(f'<polyline class="line" points="{_path(at(*p) for p in smooth)}"/>')
        for (x, y), (_, mean) in zip(raw, smooth, strict=True) if dots else ():
            px, py = at(x, mean)
            title = f"{name}, {x_label} {_number(x)}: {y:.3f}" + (f" (mean {mean:.3f})" if window > 1 else "")
            out.append(f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="5"><title>{escape(title)}</title></circle>')
        out.append("</g>")
    if reference is not None:  # its name lies over the curves, where it can be read
        right = WIDTH - RIGHT - 2
        out.append(f'<text class="label" x="{right}" y="{line_y - 6:.1f}" text-anchor="end">{escape(label)}</text>')
    out.append("</svg>")
    return "".join(out)


def ticks(low: float, high: float, count: int) -> list[float]:
    """At most `count` + 1 round numbers (1, 2, 2.5 or 5 times a power of ten apart) from `low` to `high`."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def moving_average(points: Points, window: int) -> list[tuple[float, float]]:
    """For each point, the mean of y over the `window` points around it; fewer at both ends."""
    half = window // 2
    out = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - half) : i + half + 1]]
        out.append((x, sum(near) / len(near)))
    return out


def thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points, each the mean of a run of neighbours."""
    run = math.ceil(len(points) / MAX_POINTS)
    if run <= 1:
        return points
    runs = [points[i : i + run] for i in range(0, len(points), run)]
    return [(r[len(r) // 2][0], sum(y for _, y in r) / len(r)) for r in runs]


def _path(points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:,.10g}" if abs(value) >= 1 else f"{round(value, 6):g}"
