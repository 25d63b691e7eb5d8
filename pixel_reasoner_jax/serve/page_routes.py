"""The page to talk to the models: its files, and pictures and videos to ask about that are made for it."""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from data_pipeline.sources.pixel_search import PixelSearch
from data_pipeline.sources.pixel_search_video import PixelSearchVideo
from pixel_reasoner_jax.report.page_files import SCRIPTS as SHARED_SCRIPTS
from pixel_reasoner_jax.report.page_files import page_file, page_style
from pixel_reasoner_jax.serve.errors import ApiError
from pixel_reasoner_jax.serve.replies import data_url

PAGE, STYLE, ICON = "index.html", "serve.css", "icon.svg"
SCRIPTS = (*SHARED_SCRIPTS, "ask.js", "lane.js", "save.js", "main.js")
EXAMPLES = 1000  # of each kind, after which they begin anew
WORLDS = {"image": PixelSearch, "video": PixelSearchVideo}
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
        Route("/page/examples/{kind}/{number}", guarded(_example), methods=["GET"]),
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
    kind, digits = request.path_params["kind"], request.path_params["number"]
    if kind not in WORLDS or not re.fullmatch("[0-9]{1,9}", digits):
        raise ApiError(404, f"examples are of {' or '.join(WORLDS)}, by numbers of at most nine digits")
    number = int(digits) % EXAMPLES
    seed = WORLDS[kind](number + 1, "heldout")[number]
    url = data_url(seed.images[0], "PNG", SIDE) if kind == "image" else gif_url(seed.video, seed.fps)
    return JSONResponse({"question": seed.question, "kind": kind, "url": url}, headers=HEADERS)


def gif_url(frames: Sequence[Image.Image], fps: float) -> str:
    """A video without loss, which browsers show as an image; a frame like the one before is that one for longer."""
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)
    return f"data:image/gif;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
