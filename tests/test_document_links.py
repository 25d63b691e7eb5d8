"""Where the documents lead: files that are there, and headings in them."""

from __future__ import annotations

import functools
import pathlib
import re

import pytest

from tests.conftest import REPOSITORY
from tests.documents import DOCUMENTS, prose


@functools.cache
def anchors(document: pathlib.Path) -> set[str]:
    """Of the headings of a document, as GitHub makes them; a heading that is there again gets a number."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{number}" if number else slug)
    return {*found, *re.findall(r'<a id="([^"]+)"', document.read_text(encoding="utf-8"))}


def links(document: pathlib.Path) -> list[str]:
    """Where the links and pictures of a document lead in this repository."""
    text = re.sub(r"`[^`]*`", "", prose(document))
    return [to for to in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", to)]


def broken(document: pathlib.Path) -> list[str]:
    """The links of a document that lead nowhere."""
    found = []
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        inside = target.is_relative_to(REPOSITORY.resolve()) and target.exists()
        if not inside or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("document", [*DOCUMENTS, REPOSITORY / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    assert broken(document) == []


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_document_links.REPOSITORY", tmp_path)
    (tmp_path / "other.md").write_text("# One: `two` (three)\n\n## Same\n\n## Same\n", encoding="utf-8")
    page = tmp_path / "page.md"
    good = "[a](other.md) [b](other.md#one-two-three) [c](other.md#same-1) [d](https://example.org/x) `[e](gone.md)`"
    page.write_text(
        f"{good} [f](gone.md) ![g](gone.png) [h](other.md#two) [i](#here) [j](../up.md)\n", encoding="utf-8"
    )
    assert broken(page) == ["gone.md", "gone.png", "other.md#two", "#here", "../up.md"]


def test_every_document_is_linked():
    """From another one, or from the list of pages of the site."""
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in DOCUMENTS for link in links(page)}
    site = REPOSITORY / "mkdocs.yml"
    listed = site.read_text(encoding="utf-8") if site.exists() else ""
    for document in DOCUMENTS[1:]:
        assert document.resolve() in linked or f" {document.name}\n" in listed, document
