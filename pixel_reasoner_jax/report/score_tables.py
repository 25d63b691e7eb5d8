"""Plain text tables of benchmarks' figures and of comparisons, in digits as their intervals allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pixel_reasoner_jax.report.text import interval_text, p_text, plain_table, printable

CATEGORIES = 24  # categories that a table shows of one benchmark; the others are in its results

BENCHMARK_COLUMNS = ("Score", "Items", "Scored by", "By other rules", "RaPR", "Operations", "Failed")
COMPARISON_COLUMNS = ("Score", "Difference", "Gained", "Lost", "p")


def benchmark_table(benchmarks: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of `evaluation.tally.benchmark_figures` as a table: a row for each benchmark, its modes, what several
    samples come to, and categories. `scorer` and `protocol`, as results have them, say who scored."""
    rows = [["", *BENCHMARK_COLUMNS]]
    for name, figures in benchmarks.items():
        modes = figures.get("modes", {figures["mode"]: figures})
        for mode, of_mode in modes.items():
            named = name if list(modes) == ["pixel"] else f"{name}, {mode}"
            rows.append([_name(named), *_benchmark_cells(of_mode, scored_by(figures))])
            rows += _parts(of_mode)
        if difference := figures.get("difference"):
            cell = interval_text(difference["difference"], difference["interval"], "+")
            rows.append([_name(f"{name}, pixel less text"), cell, str(difference["count"]), "", "", "", "", ""])
    return plain_table(rows)


def _parts(figures: Mapping[str, Any]) -> Iterator[list[str]]:
    """Rows below a benchmark's own."""
    for name, part in figures.items():
        if name.startswith(("pass@", "maj@")):
            yield [f"  {name}", interval_text(part["score"], part["interval"]), "", "", "", "", "", ""]
    for name, part in _shown(figures["categories"]).items():
        score = interval_text(part["score"], part["interval"])
        yield [f"  {_name(name)}", score, str(part["count"]), "", "", "", "", ""]


def scored_by(figures: Mapping[str, Any]) -> str:
    """The rule whose scores a benchmark's figures are, of a judge with its model; "–" where that is not known."""
    judge = (figures.get("protocol") or {}).get("judge")
    rule = figures.get("scorer", "–")
    return _name(f"{rule} {judge['model']}" if judge else rule)


def _benchmark_cells(figures: Mapping[str, Any], scorer: str) -> list[str]:
    spread = figures["spread"]
    numbers = (figures[key] for key in ("rapr", "operations", "failure_rate"))
    return [
        interval_text(figures["score"], figures["interval"]),
        str(figures["count"]),
        scorer,
        f"{spread[0]:.3f} to {spread[1]:.3f}" if spread and len(figures["scorers"]) > 1 else "–",
        *("–" if number is None else f"{number:.3f}" for number in numbers),
    ]


def comparison_tables(comparison: Mapping[str, Any]) -> str:
    """The figures of `evaluation.compare.compare` as a table for each benchmark: a row for each evaluation, and below
    it the difference by category."""
    tables = []
    for benchmark, found in comparison["benchmarks"].items():
        count = max(figures["count"] for figures in found["results"].values())
        rows = comparison_rows(comparison, benchmark)
        heading = f"{_name(benchmark)}, {count} items; differences from {_name(comparison['baseline'])}"
        tables.append(f"{heading}\n{plain_table(rows)}")
    return "\n\n".join(tables)


def comparison_rows(comparison: Mapping[str, Any], benchmark: str) -> list[list[str]]:
    """The cells of one benchmark's table, the heading first; names are made printable."""
    found = comparison["benchmarks"][benchmark]
    rows = [["", *COMPARISON_COLUMNS]]
    for name, figures in found["results"].items():
        score = interval_text(figures["score"], figures["interval"])
        difference = found["differences"].get(name)
        rows.append([_name(name), score, *(_difference_cells(difference) if difference else ("",) * 4)])
        for category, part in _shown(difference["categories"] if difference else {}).items():
            of_category = figures["categories"].get(category, {"score": None, "interval": None})
            score = interval_text(of_category["score"], of_category["interval"])
            rows.append([f"  {_name(category)}", score, *_difference_cells(part)])
    return rows


def _difference_cells(found: Mapping[str, Any]) -> list[str]:
    shown = interval_text(found["difference"], found["interval"], "+")
    return [shown, str(found["gained"]), str(found["lost"]), p_text(found["p"])]


def _shown(categories: Mapping[str, Any]) -> dict[str, Any]:
    return dict(list(categories.items())[:CATEGORIES])


def _name(name: str) -> str:
    name = printable(name).replace("\n", " ")
    return name if len(name) <= 40 else f"{name[:39]}…"
