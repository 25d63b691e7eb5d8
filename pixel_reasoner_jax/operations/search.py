"""Searching documents for a page: `search`, as in VRAG-RL. A service finds it, or a folder of pages with their words.

Which one, the environment says: PIXEL_REASONER_SEARCH is an address, such as http://localhost:8002/search, or a folder.
The model writes the query and nothing else of what is sent, and what a service replies is untrusted: it is read for a
bounded time, up to a bounded length, and no redirection is followed.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import http.client
import json
import logging
import math
import os
import pathlib
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.operations.arguments import check_names, check_text, signature
from pixel_reasoner_jax.operations.base import MediaState, Operation, Result, bounded
from pixel_reasoner_jax.operations.calls import OperationError
from pixel_reasoner_jax.processing.loading import load_image

ADDRESS = "PIXEL_REASONER_SEARCH"
LONGEST_QUERY = 1_000  # characters
MOST_BYTES = 2**24  # of a reply
SECONDS = 20.0  # until a reply is complete
MOST_PIXELS = 2**25  # of a page
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_log = logging.getLogger(__name__)


class Page(NamedTuple):
    """A page of a document: its name, by which the data name the right ones, and what it looks like."""

    name: str
    image: Image.Image


Retriever = Callable[[str], Page | None]
"""Finds the page that fits a query best; None if there is none. What it raises, the model is told as a failure."""


@dataclasses.dataclass(frozen=True)
class FoundPage(Result):
    """The result of a search, with the page's name."""

    name: str = ""


@dataclasses.dataclass(frozen=True)
class Search(Operation):
    """Shows the page of some documents that fits a query best.

    Attributes:
      retrieve: finds it.
    """

    retrieve: Retriever = dataclasses.field(default_factory=lambda: find_retriever(os.environ.get(ADDRESS, "")))
    name = "search"
    arguments = ("query",)
    phrase = "search for {query}"

    def describe(self, state: MediaState) -> dict[str, Any]:
        query = {"type": "string", "description": "What to look for, in words."}
        return signature(self.name, "Search the documents, and look at the page that fits best.", {"query": query})

    def example(self, state: MediaState) -> dict[str, Any] | None:
        return {"query": "summary"}

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        check_names(arguments, self.arguments)
        query = check_text("query", arguments["query"]).strip()
        if not 1 <= len(query) <= LONGEST_QUERY:
            raise OperationError(f"query has {len(query)} characters; it must have 1 to {LONGEST_QUERY}")
        page = self.retrieve(query)
        if page is None:
            raise OperationError("no page was found; search in other words")
        name = re.sub(r"[^\w.-]", "_", page.name)[:80]
        return FoundPage([bounded(page.image)], "image", len(state.images) + 1, name=name)

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        return f"\nHere is page {result.name} (Image Size: {width}x{height}):"


def find_retriever(place: str) -> Retriever:
    """What finds pages: at an address, or in a folder.

    Raises:
      UserError: it is neither.
    """
    if re.match(r"https?://[^/\s]", place):
        return SearchService(place)
    if place and pathlib.Path(place).is_dir():
        return PageFolder(pathlib.Path(place))
    said = f"is {shown(place)}" if place else "is not set"
    raise UserError(
        f"the environment variable {ADDRESS} {said}: give it the address of a search service, such as"
        " http://localhost:8002/search, or a folder of pages (see docs/recipes.md)"
    )


class SearchService:
    """A service that is sent {"query": text}, and replies {"page": name, "image": base64 of a file}, or {}.

    Args:
      address: of http or https, where it is asked by POST.
      seconds: until a reply must be complete.
    """

    def __init__(self, address: str, seconds: float = SECONDS):
        parts = urllib.parse.urlsplit(address)
        self._make = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
        self._host, self._path = parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._seconds = seconds

    def __call__(self, query: str) -> Page | None:
        try:
            reply = json.loads(self._ask(json.dumps({"query": query}).encode()))
            if not reply:
                return None
            return Page(str(reply["page"]), load_image(base64.b64decode(reply["image"], validate=True), MOST_PIXELS))
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
            TypeError,
            KeyError,
            RecursionError,
            UserError,
        ) as error:
            _log.warning("the search service failed: %s", shown(f"{type(error).__name__}: {error}"))
            raise OperationError("the search failed; it may work later") from None

    def _ask(self, body: bytes) -> bytes:
        """The body of a reply with status 200; an OSError, HTTPException or ValueError of any other."""
        connection = self._make(self._host, timeout=self._seconds)
        # The time limit of a socket is for each of its reads, of which a slow server may need any number.
        end = threading.Timer(self._seconds, _cut, [connection])
        end.daemon = True
        end.start()
        try:
            connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            reply = response.read(MOST_BYTES + 1)
            if response.status != 200 or len(reply) > MOST_BYTES:
                raise ValueError(f"status {response.status}, {len(reply)} bytes")
            return reply
        finally:
            end.cancel()
            connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    held = connection.sock
    if held is not None:
        try:
            held.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended


class PageFolder:
    """Pages as images in a folder, each with its words in a text file of the same name: `report-7.png`, `report-7.txt`.

    The page fits best whose words, the rare ones above all, are those of the query; it must have one of them.

    Raises:
      UserError: there is no page in the folder.
    """

    def __init__(self, folder: pathlib.Path):
        images = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
        self._images = {name: path for name, path in images.items() if path.with_suffix(".txt").is_file()}
        if not self._images:
            raise UserError(
                f"{folder} has no pages: images ({', '.join(SUFFIXES)}) with a .txt of the same name beside"
            )
        texts = {name: path.with_suffix(".txt").read_text("utf-8", "replace") for name, path in self._images.items()}
        self._words = {name: _words(text) for name, text in texts.items()}
        pages = collections.Counter(word for words in self._words.values() for word in words)
        self._weights = {word: math.log(1 + len(texts) / count) for word, count in pages.items()}

    def __call__(self, query: str) -> Page | None:
        wanted = _words(query)
        scores = {name: sum(self._weights[word] for word in wanted & words) for name, words in self._words.items()}
        name = max(scores, key=scores.__getitem__)
        return Page(name, load_image(self._images[name], MOST_PIXELS)) if scores[name] > 0 else None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
