"""Charts: well formed, with round ticks and honest lines."""

import math
import xml.etree.ElementTree as ET

import pytest

from pixel_reasoner_jax.report.charts import MAX_POINTS, line_chart, moving_average, ticks


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 90, 7, [0, 20, 40, 60, 80]),
        (3, 11, 4, [4, 6, 8, 10]),
        (0, 1000, 4, [0, 250, 500, 750, 1000]),
    ],
)
def test_ticks_are_round(low, high, count, expected):
    assert ticks(low, high, count) == pytest.approx(expected)


def test_moving_average():
    points = [(0, 0.0), (1, 3.0), (2, 6.0), (3, 0.0)]
    assert moving_average(points, 3) == [(0, 1.5), (1, 3.0), (2, 3.0), (3, 3.0)]
    assert moving_average(points, 1) == points


def test_points_are_where_they_belong():
    root = ET.fromstring(line_chart({"a": [(0, 0.0), (10, 1.0)]}, x_label="step"))
    first, last = root.findall(".//circle")
    x0, y0, x1, y1 = (float(c.get(k)) for c in (first, last) for k in ("cx", "cy"))
    assert x0 < x1 and y0 > y1
    assert (x0, y0, y1) == (44, 260, 14)
    assert last.find("title").text == "a, step 10: 1.000"


def test_untrusted_names_and_values():
    series = {"<b>&": [(0, math.nan), (1, 5.0), (2, -3.0), (3, 0.5)], "empty": []}
    root = ET.fromstring(line_chart(series, x_label='"x"', reference=("</svg>", 0.5), window=3))
    heights = [float(circle.get("cy")) for circle in root.findall(".//circle")]
    assert len(heights) == 3 and all(14 <= y <= 260 for y in heights)


def test_no_points_and_one_point():
    for points in ([], [(7, 0.3)]):
        ET.fromstring(line_chart({"a": points}, x_label="step"))


def test_long_runs_are_thinned():
    root = ET.fromstring(line_chart({"a": [(i, i / 10_000) for i in range(10_000)]}, x_label="step"))
    assert 100 < len(root.findall(".//circle")) <= MAX_POINTS


def test_a_band_lies_around_its_series():
    chart = line_chart(
        {"a": [(0, 0.5), (10, 0.5)], "b": []},
        x_label="step",
        bands={"a": [(0, 0.25, 0.75), (10, 0.0, 2.0)]},
        dots=False,
    )
    root = ET.fromstring(chart)
    (band,) = root.findall(".//polygon")
    points = [tuple(map(float, point.split(","))) for point in band.get("points").split()]
    assert points == [(44, 198.5), (546, 260), (546, 14), (44, 75.5)]  # 2.0 at the edge
    assert not root.findall(".//circle")
