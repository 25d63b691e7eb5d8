"""What untrusted text may become."""

from pixel_reasoner_jax.report.text import arguments_text, escape, figures_table, printable, sizes_text
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
