"""What untrusted text may become."""

import pytest

from pixel_reasoner_jax.report.text import (
    arguments_text,
    escape,
    figures_table,
    interval_text,
    p_text,
    printable,
    sizes_text,
)
from pixel_reasoner_jax.trajectory import OperationRecord


def test_control_characters_reach_no_terminal():
    hostile = "".join(map(chr, [*range(32), *range(127, 160), 0x202E, 0x2066, 0xD800]))
    shown = printable(hostile)
    assert shown.count("\ufffd") == len(hostile) - 3  # tab, newline, and the surrogate, which becomes "?"
    assert set(shown) == {"\ufffd", "\t", "\n", "?"}


def test_other_text_is_left_alone():
    text = 'Zahl: 5 °C — 数字, ةيبرعلا, 🙂\n\t<b> & "quotes"'
    assert printable(text) == text


def test_escape_leaves_nothing_of_html():
    assert escape("<a b='c'>&\"\x1b") == "&lt;a b=&#x27;c&#x27;&gt;&amp;&quot;\ufffd"


def test_sizes():
    assert sizes_text(((308, 280),)) == "308 × 280 px"
    assert sizes_text(((560, 308),) * 3) == "3 of 560 × 308 px"
    assert sizes_text(()) == "done"


def test_arguments():
    record = OperationRecord(0, "zoom_in", {"bbox_2d": [0.1, float("inf")], "target_image": 1})
    assert arguments_text(record) == "bbox_2d = [0.1, Infinity], target_image = 1"
    assert arguments_text(OperationRecord(0, None, None, error="unreadable")) == ""


def test_figures_table_lines_up():
    table = figures_table({"a": {"x": 0.5, "y": None}, "long name": {"x": 1.25}}, {"x": "Accuracy", "y": "RaPR"})
    assert table.splitlines() == [
        "           Accuracy  RaPR",
        "─────────────────────────",
        "a             0.500     –",
        "long name     1.250     –",
    ]


@pytest.mark.parametrize(
    ("mean", "interval", "shown"),
    [
        (0.84293, (0.7853, 0.8901), "0.843 [0.785, 0.890]"),  # V*: half of it is 0.052
        (0.70341, (0.6961, 0.7106), "0.7034 [0.6961, 0.7106]"),  # TallyQA's complex questions
        (2 / 3, (0.2077, 0.9385), "0.67 [0.21, 0.94]"),
        (0.5, (0.0945, 0.9055), "0.50 [0.09, 0.91]"),
        (1.0, (0.99990, 1.0), "1.0000 [0.9999, 1.0000]"),
        (0.5, (0.5, 0.5), "0.5000 [0.5000, 0.5000]"),
        (None, None, "–"),
    ],
)
def test_digits_as_the_interval_allows(mean, interval, shown):
    assert interval_text(mean, interval) == shown


def test_differences_have_a_sign():
    assert interval_text(0.09, (-0.011, 0.19), "+") == "+0.09 [-0.01, +0.19]"
    assert interval_text(-0.0, (-0.1, 0.1), "+") == "+0.00 [-0.10, +0.10]"


def test_p_values():
    assert [*map(p_text, (None, 0.00099, 0.0123, 0.5, 1.0))] == ["–", "<0.001", "0.012", "0.50", "1.00"]
