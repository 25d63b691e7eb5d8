"""The figures of `gpu.py` as the rows of a table, each with its card, beside what the card can do at most."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

GIB = 2**30

# Bytes a second from memory, and operations a second of dense bfloat16 products: NVIDIA's data sheets, which give most
# rates of products twice as high, for sparse ones. The first name that is in the device's counts.
CARDS = {
    "H200 NVL": (4.8e12, 835e12),
    "H200": (4.8e12, 989e12),
    "H100 NVL": (3.9e12, 835e12),
    "H100 PCIe": (2.0e12, 756e12),
    "H100 80GB HBM3": (3.35e12, 989e12),
    "A100-SXM4-80GB": (2.039e12, 312e12),
    "A100 80GB PCIe": (1.935e12, 312e12),
    "A100-SXM4-40GB": (1.555e12, 312e12),
    "A100-PCIE-40GB": (1.555e12, 312e12),
}


def rates(card: str) -> tuple[float, float] | None:
    """(bytes, operations) a second of a card by its name, None where none is known."""
    return next((rates for name, rates in CARDS.items() if re.search(rf"\b{name}\b", card)), None)


def disagreement(result: Mapping, results: Mapping[str, Mapping]) -> str | None:
    """Why an update of PyTorch's is not comparable with ours of the same phase, if it is not.

    The loss and the gradient's norm of the first two updates differ, by more than the tolerance of their size, or of 1
    if that is more.
    """
    group, _, side = result["step"].rpartition("/")
    own = results.get(f"{group}/ours", {}).get("figures")
    if not group.startswith("updates/") or side == "ours" or not own:
        return None
    ours, theirs = ([value for update in one["figures"][:2] for value in update] for one in (own, result["figures"]))
    tolerance = results["model"]["figures"]["tolerance"]
    if all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in zip(ours, theirs, strict=True)):
        return None
    return f"loss and gradient norm of two updates: {theirs}, of ours {ours}"


def table(results: Iterable[Mapping]) -> str:
    """Rows of Markdown: what, the figure, the card."""
    found = {result["step"]: result for result in results}
    lines = ["| what | measured | card |", "|---|---|---|"]
    for step, result in found.items():
        card = result["card"] or "none found"
        for what, measured in _rows(step, result, found):
            lines.append(f"| {what} | {measured} | {card} |".replace("\n", " "))
    return "\n".join(lines) + "\n"


def _rows(step: str, result: Mapping, results: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    """(what, measured) of a step."""
    figures, error = result.get("figures"), result.get("error", "")
    rows: list[tuple[str, str]] = []
    if figures and (show := _SHOW.get(step.split("/")[0])):
        rows = show(step, figures, results, result["status"] == "measured")
    if result["status"] == "failed":
        rows.append((step, f"**failed**: {error.replace('|', '/')}"))
    return rows or [(step, error or f"done in {result['seconds']:.0f} s")]


def _machine(_, figures, *__):
    memory = f", {figures['memory'] / GIB:.0f} GiB for JAX" if figures["memory"] else ""
    versions = f"Python {figures['python']}, JAX {figures['jax']}, PyTorch {figures['torch'] or 'none'}"
    missing = f"; not installed: {', '.join(figures['missing'])}" if figures["missing"] else ""
    return [("machine", f"{versions}{memory}{missing}")]


def _tests(_, figures, *__):
    return [("tests", ", ".join(f"{count} {name}" for name, count in figures.items() if name != "not_passed"))]


def _quickstart(_, figures, *__):
    return [
        (f"quickstart, {stage}", f"accuracy {row['accuracy']:.3f}, RaPR {row['rapr']:.3f}")
        for stage, row in figures.items()
    ]


def _floors(_, figures, *__):
    card = rates(figures["device"]) or (None, None)
    rows = []
    for phase, what, unit, here, sheet in (
        ("decode", "a token of every slot", "TB/s", figures["bytes_per_second"], card[0]),
        ("prefill", "a row", "TFLOP/s", figures["flops"], card[1]),
    ):
        seconds, least = figures[phase]["seconds"], figures[phase]["least"]
        text = (
            f"{1e3 * seconds:.3g} ms: {seconds * here / least:.2f} x the floor at the {here / 1e12:.4g} {unit} measured"
        )
        if sheet:
            text += f", {seconds * sheet / least:.2f} x at the data sheet's {sheet / 1e12:.4g}"
        else:
            text += "; no data sheet's rate is known for this card"
        rows.append((f"{phase}, {what}", text))
    return rows


def _decode(_, figures, *__):
    compared = (
        ("ragged", "a response of 7,900 tokens and 31 of 300, beside as many tokens spread evenly"),
        ("int8_weights", "matrices in int8"),
        ("int8_cache", "a cache in int8"),
    )
    return [
        (f"a step of decoding, {what}", f"{figures[f'{name}_ms']:.3g} ms, {figures[f'{name}_ratio']:.2f} x the time")
        for name, what in compared
    ]


def _rollouts(step, figures, results, _):
    speed = f"{figures['tokens_per_second']:.1f} tokens/s"
    if "compiles" in figures:
        speed += f", {figures['compiles']} programs compiled meanwhile"
    return [(step, speed + _beside(step, figures, results, lambda one: one["tokens_per_second"]))]


def _updates(step, figures, results, measured):
    text = f"{figures['seconds']:.3g} s, {figures['bytes'] / GIB:.2f} GiB"
    model = results.get("model", {}).get("figures")
    if model:
        rate = model["model_flops"] / figures["seconds"]
        peak = rates(figures["device"])
        text += f", {rate / 1e12:.3g} TFLOP/s" + (f" ({rate / peak[1]:.1%} of the data sheet's)" if peak else "")
    if measured:
        text += _beside(step, figures, results, lambda one: 1 / one["seconds"])
    return [(step, text)]


def _beside(step, figures, results, speed):
    """How ours compares with a peer's, if both were measured on one device."""
    own = results.get(f"{step.rpartition('/')[0]}/ours", {})
    if step.endswith("/ours") or own.get("status") != "measured" or own["figures"]["device"] != figures["device"]:
        return ""
    return f"; ours is {speed(own['figures']) / speed(figures):.2f} x as fast"


_SHOW = {
    "machine": _machine,
    "tests": _tests,
    "quickstart": _quickstart,
    "floors": _floors,
    "decode": _decode,
    "rollouts": _rollouts,
    "ragged": _rollouts,
    "updates": _updates,
}
