"""The files that all pages share, the viewer's and the server's: look, elements, boxes on pictures."""

from __future__ import annotations

import importlib.resources

from pixel_reasoner_jax.report.style import STYLE

SCRIPTS = ("elements.js", "boxes.js")
"""To be loaded before a page's own."""

CONTROLS = "controls.css"
"""The style of what is pressed and typed into, which pages to read alone do without."""


def page_file(package: str, name: str) -> str:
    """The text of a file of a package's `page`, or of a shared one."""
    parts = (__package__, "shared") if name in (CONTROLS, *SCRIPTS) else (package, "page")
    return importlib.resources.files(parts[0]).joinpath(parts[1], name).read_text(encoding="utf-8")


def page_style(package: str, name: str) -> str:
    """The style of a package's page: what all pages have, and then its own file."""
    return STYLE + page_file(package, CONTROLS) + page_file(package, name)
