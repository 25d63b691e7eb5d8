"""What MkDocs is given beside the documents: README, the examples, and the pages that are made of the source."""

from __future__ import annotations

import pathlib

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference_pages import PAGES, among_documents, examples_page, first_page

REPOSITORY = pathlib.Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file holds."""
    for place, path, made in (
        ("index.md", "README.md", first_page),
        ("examples.md", "examples/README.md", examples_page),
    ):
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=made(text)))
    for place, make in PAGES.items():
        files.append(File.generated(config, place, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Takes links out of the documents' folder from those that are files of it."""
    return markdown if page.file.src_uri in PAGES else among_documents(markdown)
