"""Figures: SVG documents that stand alone, with one legend for all panels."""

import xml.etree.ElementTree as ET

from pixel_reasoner_jax.report.figures import Panel, figure

SVG = "{http://www.w3.org/2000/svg}"


def test_panels_stand_in_rows_under_their_legend():
    panels = [Panel(f"<{n}>", {"a & b": [(1, 0.2), (2, 0.4)], "c": [(1, 3.0)]}, y_range=(0, 1)) for n in range(3)]
    root = ET.fromstring(figure(panels))
    charts = root.findall(f"{SVG}svg")
    assert [(c.get("x"), c.get("y")) for c in charts] == [("0", "60"), ("560", "60"), ("0", "390")]
    assert (root.get("width"), root.get("height")) == ("1120", "690")
    assert [text.text for text in root.findall(f"{SVG}text") if text.get("class") == "title"] == ["<0>", "<1>", "<2>"]
    assert [text.text for text in root.findall(f"{SVG}text") if text.get("class") == "entry"] == ["a & b", "c"]
    colors = [[g.get("style") for g in chart.findall(f"{SVG}g")] for chart in charts]
    assert colors == [["color:var(--series-1)", "color:var(--series-2)"]] * 3
    assert "--series-2: #d9480f;" in root.find(f"{SVG}style").text


def test_a_series_keeps_its_color_where_another_is_missing():
    panels = [Panel("x", {"a": [(1, 0.5)], "b": [(1, 0.5)]}), Panel("y", {"b": [(1, 0.5)]})]
    second = ET.fromstring(figure(panels)).findall(f"{SVG}svg")[1]
    lines = {g.get("style"): g.find(f"{SVG}polyline").get("points") for g in second.findall(f"{SVG}g")}
    assert lines["color:var(--series-1)"] == "" and lines["color:var(--series-2)"]


def test_axes_hold_all_values():
    assert Panel("x", {"a": [(1, 3.0)]}, {"a": [(1, 2.0, 4.5)]}).limits == (0.0, 4.5)
    assert Panel("x", {"a": [(1, -1.0)]}).limits == (-1.0, 0.0)
    assert Panel("x", {"a": []}).limits == (0.0, 1.0)
    assert Panel("x", {"a": [(1, 3.0)]}, y_range=(0, 1)).limits == (0, 1)


def test_a_long_legend_takes_several_lines():
    names = [f"arm number {n} of twelve" for n in range(12)]
    root = ET.fromstring(figure([Panel("x", {name: [(1, 0.5)] for name in names})]))
    heights = {float(text.get("y")) for text in root.findall(f"{SVG}text") if text.get("class") == "entry"}
    assert len(heights) > 2
    assert all(float(c.get("y")) > max(heights) for c in root.findall(f"{SVG}svg"))
