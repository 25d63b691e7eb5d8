"""What came of runs that differ in their seeds alone: means with 95% intervals over seeds, and curves of metrics."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.evaluation.intervals import run_interval
from pixel_reasoner_jax.report.charts import moving_average
from pixel_reasoner_jax.report.figures import Panel

Episodes = Sequence[Mapping[str, Any]]
"""The metrics of a run, `metrics.read_metrics` of its directory."""


def interval_over_seeds(values: Sequence[float]) -> list[float] | None:
    """Low and high of the mean's interval by Student's t; None where there are fewer than two seeds."""
    if len(values) < 2:
        return None
    found = run_interval(values)
    return [found.low, found.high]


def panel(title: str, metric: str, runs: Mapping[str, Sequence[Episodes]], window: int = 5, **options: Any) -> Panel:
    """A chart of a metric over episodes: the mean over seeds, with its interval where there are two at least.

    Args:
      title: what the metric is.
      metric: its name; episodes without it are left out.
      runs: by name, the runs of each seed.
      window: before they are averaged, the curves of seeds are running means over so many episodes.
      **options: of `Panel`.
    """
    series, bands = {}, {}
    for name, of_seeds in runs.items():
        values: dict[int, list[float]] = collections.defaultdict(list)
        for episodes in of_seeds:
            points = [(row["step"], row[metric]) for row in episodes if row.get(metric) is not None]
            for step, value in moving_average(points, window):
                values[step].append(value)
        steps = sorted(values)
        series[name] = [(step, math.fsum(values[step]) / len(values[step])) for step in steps]
        bands[name] = [(step, *interval_over_seeds(values[step])) for step in steps if len(values[step]) > 1]
    return Panel(title, series, bands, **options)
