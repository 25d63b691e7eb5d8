"""The page to talk to the models: its files, and pictures to ask about that are made for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.report.page_files import SCRIPTS as SHARED_SCRIPTS
from pixel_reasoner_jax.report.page_files import page_file, page_style
from pixel_reasoner_jax.serve.errors import ApiError
from pixel_reasoner_jax.serve.replies import data_url

PAGE, STYLE, ICON = "index.html", "serve.css", "icon.svg"
SCRIPTS = (*SHARED_SCRIPTS, "ask.js", "lane.js", "save.js", "main.js")
EXAMPLES = 1000  # after which they begin anew
SIDE = 4096  # pixels; larger than they are, since what is small in them is what is asked about
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data: blob:; media-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def routes(guarded: Callable[[Callable[[Request], Response]], Any]) -> list[Route]:
    """The routes of the page; `guarded` lets only those have an example who show the key."""
    return [
        Route("/", _page, methods=["GET"]),
        Route("/page/examples/{number:int}", guarded(_example), methods=["GET"]),
        Route("/page/{name}", _page, methods=["GET"]),
    ]


async def _page(request: Request) -> Response:
    name = request.path_params.get("name", PAGE)
    if name not in (PAGE, STYLE, ICON, *SCRIPTS):
        return JSONResponse(ApiError(404, "the page has no such file").body, 404)
    return Response(
        _file(name), headers={**HEADERS, "Content-Type": f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"}
    )


@functools.cache
def _file(name: str) -> str:
    return page_style(__package__, name) if name == STYLE else page_file(__package__, name)


def _example(request: Request) -> Response:
    number = request.path_params["number"] % EXAMPLES
    seed = PixelSearch(number + 1, "heldout")[number]
    query = seed.query()
    return JSONResponse(
        {"question": query["question"], "image": data_url(query["images"][0], "PNG", SIDE)}, headers=HEADERS
    )
