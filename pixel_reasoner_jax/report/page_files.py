"""The files that all pages share, the viewer's and the server's: look, elements, boxes on pictures."""

from __future__ import annotations

import importlib.resources

from pixel_reasoner_jax.report.style import STYLE

SCRIPTS = ("elements.js", "boxes.js")
"""To be loaded before a page's own."""


def page_file(package: str, name: str) -> str:
    """The text of a file of a package's `page`, or a shared one of `SCRIPTS`."""
    folder = importlib.resources.files("pixel_reasoner_jax.report" if name in SCRIPTS else package)
    return folder.joinpath("page", name).read_text(encoding="utf-8")


def page_style(package: str, name: str) -> str:
    """The style of a package's page: what all pages have, and then its own file."""
    return STYLE + page_file("pixel_reasoner_jax.report", "controls.css") + page_file(package, name)
