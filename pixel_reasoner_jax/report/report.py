"""The report of a quickstart or an evaluation: the stages' figures, learning curves, responses, settings."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.files import write_text
from pixel_reasoner_jax.report.charts import line_chart
from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.text import escape
from pixel_reasoner_jax.report.trajectory_html import trajectory_html
from pixel_reasoner_jax.trajectory import Trajectory

STAGES = {
    "prior": "Prior baseline",
    "warm_start": "Warm start",
    "rl_without_curiosity": "RL without curiosity",
    "rl_with_curiosity": "RL with curiosity",
}

COLUMNS = {
    "accuracy": ("Accuracy", True),
    "rapr": ("RaPR", True),
    "operations": ("Operations per response", False),
    "failure_rate": ("Failed operations", False),
}

PICTURES_BYTES = 3_000_000  # of all pictures together, encoded


@dataclasses.dataclass(frozen=True)
class StageResponse:
    """A response to show: `stage` is a key of `STAGES` or any text, `correct` the score (None: not scored)."""

    stage: str
    trajectory: Trajectory
    correct: float | None = None


def write_report(
    path: str | os.PathLike,
    *,
    figures: Mapping[str, Mapping[str, float | None]],
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    responses: Sequence[StageResponse],
    config: Mapping[str, Any],
    title: str = "Learning to look: pixel-space reasoning with curiosity",
    lead: str = "",
    rate_floor: float | None = None,
) -> pathlib.Path:
    """Writes the report as one self-contained HTML file, atomically.

    Args:
      path: of the file.
      figures: stage to its figures, as `evaluation.metrics.figures` gives them; a figure may be missing or None. Stages
        of `STAGES` come first in the table.
      runs: stage to the metrics of its training steps: mappings with `step`, `rapr` and `accuracy`; a curve leaves out
        steps that lack its value.
      responses: to show, in this order.
      config: settings to list; mappings may be nested.
      title: text of the heading.
      lead: text of the paragraph under it.
      rate_floor: H, the rate of pixel-space reasoning below which curiosity pays; a line in the chart of RaPR.

    Returns:
      The path of the file.
    """
    prior = figures.get("prior", {}).get("accuracy")
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(lead)}</p>' if lead else "",
        _table(figures),
        _charts(runs, prior, rate_floor),
        _responses(responses),
        _settings(config),
    ]
    return write_text(path, document(title, "".join(sections)))


def _table(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    order = [stage for stage in STAGES if stage in figures] + [stage for stage in figures if stage not in STAGES]
    scores = {stage: figures[stage].get("accuracy") or 0.0 for stage in order}
    best = max(scores, key=scores.get, default=None)
    rows = []
    for stage in order:
        cells = "".join(_cell(figures[stage].get(key), bar) for key, (_, bar) in COLUMNS.items())
        chosen = ' class="best"' if stage == best and len(order) > 1 else ""
        rows.append(f'<tr{chosen}><th scope="row">{escape(STAGES.get(stage, stage))}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name, _ in COLUMNS.values())
    return (
        f'<h2>Results on held-out images</h2><div class="card scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">RaPR, the rate of pixel-space reasoning, is the share of responses with at least one '
        "successful visual operation. Operations count every call, failed ones included; failed operations are a "
        "share of the calls.</p>"
    )


def _cell(value: float | None, bar: bool) -> str:
    if value is None or not math.isfinite(value):
        return "<td>–</td>"
    width = min(max(value, 0.0), 1.0)
    meter = f'<span class="meter"><i style="width:{100 * width:.1f}%"></i></span>' if bar else ""
    return f"<td>{value:.3f}{meter}</td>"


def _charts(runs: Mapping[str, Sequence[Mapping[str, Any]]], prior: float | None, floor: float | None) -> str:
    if not runs:
        return ""
    charts = [
        ("RaPR", "rapr", None if floor is None else (f"curiosity pays below {floor:g}", floor)),
        ("Accuracy", "accuracy", None if prior is None else (f"prior baseline {prior:.2f}", prior)),
    ]
    longest = max(map(len, runs.values()))
    window = 5 if longest >= 20 else 1
    legend = "".join(
        f'<span><i style="background:var(--series-{k})"></i>{escape(STAGES.get(name, name))}</span>'
        for k, name in enumerate(runs, 1)
    )
    cards = []
    for heading, key, reference in charts:
        series = {
            STAGES.get(name, name): [
                (row["step"], row[key]) for row in rows if row.get(key) is not None and "step" in row
            ]
            for name, rows in runs.items()
        }
        chart = line_chart(series, x_label="step", reference=reference, window=window)
        cards.append(f'<div class="card"><h3>{heading}</h3><div class="legend">{legend}</div>{chart}</div>')
    smooth = (
        f" Bold lines are running means over {window} steps, faint ones the steps themselves." if window > 1 else ""
    )
    return (
        f'<h2>Learning curves</h2><p class="note">Measured on the responses sampled in training.{smooth}</p>'
        f'<div class="charts">{"".join(cards)}</div>'
    )


def _responses(responses: Sequence[StageResponse]) -> str:
    if not responses:
        return ""
    share = PICTURES_BYTES // len(responses)
    cards = [
        trajectory_html(e.trajectory, correct=e.correct, label=STAGES.get(e.stage, e.stage), max_bytes=share)
        for e in responses
    ]
    return (
        f'<h2>{len(responses)} responses</h2><p class="note">A box on the image and the operation that cut it share a '
        f"number and a colour; crops stand where they came back to the model.</p>{''.join(cards)}"
    )


def _settings(config: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<div><span>{escape(key)}</span><span><code>{escape(value)}</code></span></div>"
        for key, value in _flat(config)
    )
    return f'<h2>Configuration</h2><div class="card settings">{rows}</div>' if rows else ""


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names."""
    out = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        out += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return out
