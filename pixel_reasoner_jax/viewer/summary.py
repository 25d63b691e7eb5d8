"""What sources come to: figures with intervals, curves, alarms, accuracy by resolution and by the object's size."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.evaluation.intervals import score_interval, wilson
from pixel_reasoner_jax.metrics import FILE as METRICS
from pixel_reasoner_jax.report.charts import thin
from pixel_reasoner_jax.report.trajectory_json import finite
from pixel_reasoner_jax.training.alarms import ALARMS
from pixel_reasoner_jax.viewer.lines import Skipped, json_file, objects_of
from pixel_reasoner_jax.viewer.sources import EVALUATED, Found, read_results

Row = Mapping[str, Any]

GROUPS = 40  # lines of the table that are shown of a source
BINS, BIN_ITEMS = 5, 8  # of a chart, and the responses that one needs
MAX_STEPS, MAX_CURVES = 200_000, 200


def source_summary(found: Found, rows: Sequence[Row], number: int, skipped: Skipped) -> dict[str, Any]:
    """The figures of one source, whose rows are those with its number; `skipped` counts what it could not read."""
    own = [row for row in rows if row["run"] == number]
    steps = _steps(found, skipped) if found.kind == "run" else []
    figures = _results(found) if found.kind == "evaluation" else []
    return {
        "name": found.name,
        "kind": found.kind,
        "count": len(own),
        "figures": (figures or _figures(own))[:GROUPS],
        "curves": _curves(steps),
        "alarms": _alarms(steps),
        "floor": _rate_floor(found) if found.kind == "run" else None,
        "skipped": skipped.table(),
    }


def summary(runs: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy by resolution and by the size of the object, for each source where these are known and differ."""
    charts = {}
    for name, key in (("resolution", "pixels"), ("object", "object")):
        of_runs = []
        for number in range(len(runs)):
            known = [row for row in rows if row["run"] == number and row["score"] is not None and row[key]]
            of_runs.append(_binned(known, lambda row, key=key: row[key]))
        charts[name] = of_runs if any(of_runs) else []
    return {"charts": charts}


def _results(found: Found) -> list[dict[str, Any]]:
    """The lines of the table from an evaluation's results."""
    lines = []
    for name, of_benchmark in read_results(found.path).items():
        if not isinstance(of_benchmark, dict):
            continue
        modes = of_benchmark.get("modes")
        for mode, figures in modes.items() if isinstance(modes, dict) else [("pixel", of_benchmark)]:
            if not isinstance(figures, dict) or finite(figures.get("score")) is None:
                continue
            label = str(name)[:80] if mode == "pixel" else f"{str(name)[:80]}, {str(mode)[:20]}"
            lines.append(_line(label, figures, 0))
            categories = figures.get("categories")
            for part, values in itertools.islice(categories.items() if isinstance(categories, dict) else (), GROUPS):
                if isinstance(values, dict):
                    lines.append(_line(str(part)[:80], values, 1))
    return lines


def _line(label: str, figures: Mapping[str, Any], depth: int) -> dict[str, Any]:
    interval = figures.get("interval")
    is_pair = isinstance(interval, list) and len(interval) == 2 and all(finite(end) is not None for end in interval)
    rate, responses = finite(figures.get("rapr")), finite(figures.get("responses"))
    known = rate is not None and responses and 0 <= rate <= 1 and responses >= 1
    return {
        "name": label,
        "depth": depth,
        "score": finite(figures.get("score")),
        "interval": interval if is_pair else None,
        "count": finite(figures.get("count")),
        "rapr": rate,
        "rapr_interval": list(wilson(rate, responses)) if known else None,
        "operations": finite(figures.get("operations")),
        "failure_rate": finite(figures.get("failure_rate")),
    }


def _figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The lines of the table from the rows themselves: all but those of a run's evaluations, and each group."""
    groups: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    parts = [*groups.items()][1 - GROUPS :] if len(groups) > 1 else []
    sampled = [row for row in rows if not row["group"].startswith(EVALUATED)]  # not by other policies and settings
    whole = [_line_of("all shown", sampled, 0)] if sampled else []
    return [*whole, *(_line_of(name or "–", part, 1) for name, part in parts)]


def _line_of(label: str, rows: Sequence[Row], depth: int) -> dict[str, Any]:
    items: dict[str, list[float]] = collections.defaultdict(list)
    for row in rows:
        if row["score"] is not None:
            items[row["id"]].append(row["score"])
    found = score_interval([sum(scores) / len(scores) for scores in items.values()]) if items else None
    calls, failed = sum(row["operations"] for row in rows), sum(row["failed"] for row in rows)
    rate = sum(row["operations"] > row["failed"] for row in rows) / len(rows)
    return {
        "name": label,
        "depth": depth,
        "score": None if found is None else found.mean,
        "interval": None if found is None else [found.low, found.high],
        "count": len({row["id"] for row in rows}),
        "rapr": rate,
        "rapr_interval": list(wilson(rate, len(rows))),
        "operations": calls / len(rows),
        "failure_rate": failed / calls if calls else None,
    }


def _binned(rows: Sequence[Row], value: Callable[[Row], float]) -> list[dict[str, Any]]:
    """Scores by a value, in groups of about as many responses; empty where there is nothing to compare."""
    rows = sorted(rows, key=value)
    bins: list[list[Row]] = []
    size = max(BIN_ITEMS, -(-len(rows) // BINS))
    for _, same in itertools.groupby(rows, value):  # equal values stay together
        same = list(same)
        if bins and len(bins[-1]) < size:
            bins[-1] += same
        else:
            bins.append(same)
    if len(bins) > 1 and len(bins[-1]) < BIN_ITEMS:
        bins[-2] += bins.pop()
    if len(bins) < 2:
        return []
    shown = []
    for part in bins:
        found = score_interval([row["score"] for row in part], [row["id"] for row in part])
        ends = [value(part[0]), value(part[-1])]
        figures = {"score": found.mean, "interval": [found.low, found.high], "count": len(part), "range": ends}
        shown.append(figures)
    return shown


def _steps(found: Found, skipped: Skipped) -> list[dict[str, Any]]:
    if not (found.path / METRICS).is_file():
        return []
    steps = []
    for number, line in objects_of(found.path / METRICS, skipped):
        if type(line.get("step")) is not int or not 0 <= line["step"] < 2**53 or len(steps) >= MAX_STEPS:
            skipped.add("line that is no step's metrics", f"{METRICS}, line {number}")
            continue
        steps.append({name: number for name, value in line.items() if (number := finite(value)) is not None})
    return sorted(steps, key=lambda step: step["step"])


def _curves(steps: Sequence[Mapping[str, float]]) -> dict[str, list[tuple[float, float]]]:
    """The points (step, value) of every metric, thinned."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for step in steps:
        for name, value in step.items():
            if name in ("step", "time") or name.startswith("alarm_"):
                continue
            if name in curves or len(curves) < MAX_CURVES:
                curves.setdefault(name, []).append((step["step"], value))
    return {name[:80]: thin(points) for name, points in curves.items()}


def _alarms(steps: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """The alarms that sounded, each with its first and last step, in how many steps, and whether it sounds now."""
    found = []
    for name, alarm in ALARMS.items():
        sounded = [step["step"] for step in steps if step.get(f"alarm_{name}")]
        if sounded:
            now = sounded[-1] == steps[-1]["step"]
            entry = {"name": name, "first": sounded[0], "last": sounded[-1], "steps": len(sounded), "now": now}
            found.append({**entry, "says": alarm.says, "advice": alarm.advice})
    return found


def _rate_floor(found: Found) -> float | None:
    """H of the run's config: the rate of pixel-space reasoning below which curiosity pays."""
    config = json_file(found.path / "config.json")
    curiosity = config.get("curiosity") if isinstance(config, dict) else None
    return finite(curiosity.get("rate_floor")) if isinstance(curiosity, dict) else None
