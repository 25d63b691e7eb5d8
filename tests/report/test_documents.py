"""Parts of documents that a program writes."""

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.report.documents import fill_part, markdown_table


def test_tables():
    assert markdown_table([["", "a|b"], ["x", "1"]]) == "|  | a\\|b |\n|---|---|\n| x | 1 |"


def test_a_part_is_replaced_and_nothing_else(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("before\n<!-- begin x -->\nold\n<!-- end x -->\nafter\n")
    for text in ("new", "newer"):
        fill_part(path, "x", text)
        assert path.read_text() == f"before\n<!-- begin x -->\n\n{text}\n\n<!-- end x -->\nafter\n"
    with pytest.raises(UserError, match="no lines <!-- begin y -->"):
        fill_part(path, "y", "text")
