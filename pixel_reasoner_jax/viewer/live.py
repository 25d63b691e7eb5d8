"""A view that follows a run: a server on this machine alone, which rebuilds the view when the run has gone on.

It serves the files of the view that it wrote and nothing else, by GET and HEAD, and answers only requests that name it
by its own address: a page of another site cannot read it through a name that was made to point here.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.metrics import FILE as METRICS
from pixel_reasoner_jax.report.text import printable
from pixel_reasoner_jax.saved_config import FILE as CONFIG
from pixel_reasoner_jax.training.samples import SAMPLES
from pixel_reasoner_jax.viewer.build import DATA, DATA_NAME, ICON, PAGE, POLICY, SCRIPTS, STYLE, build, write_script
from pixel_reasoner_jax.viewer.pictures import FOLDER as IMAGES
from pixel_reasoner_jax.viewer.pictures import NAME as IMAGE_NAME
from pixel_reasoner_jax.viewer.sources import Found, find_sources

HOST = "127.0.0.1"
EPISODES = 20  # whose samples are shown, the last ones
LIMIT = 2_000  # trajectories
REST = 1.0  # seconds between two looks at the run, at least
IDLE = 30.0  # seconds after which a client that says nothing is let go
CLIENTS = 32  # that are answered at once, each in a thread; a browser takes 6

TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
}
_ADDRESS = re.compile(r"/(?:(data|images)/)?([0-9A-Za-z.]+)(?:\?[0-9]*)?")


class LiveView:
    """A view of a run, in a folder, which is written anew when the run's files have changed.

    Args:
      found: the run.
      folder: of the view; empty.
      model: folder with the tokenizer; None: that of the run.
    """

    def __init__(self, found: Found, folder: pathlib.Path, model: str | None = None):
        self._found, self._model, self.folder = found, model, folder
        self._lock, self._state, self._looked, self._version = threading.Lock(), None, -REST, 0
        self._said = ""
        self.refresh()

    def refresh(self) -> None:
        """Writes the view, if the run has changed and the last look is a while ago; says why it could not, once."""
        with self._lock:
            if time.monotonic() - self._looked < REST:
                return
            state = _state(self._found.path)
            if state != self._state:
                try:
                    build([self._found], self.folder, self._model, LIMIT, EPISODES, live=self._version + 1)
                    self._state, self._version = state, self._version + 1
                    write_script(self.folder / DATA / "version.js", "view.version(", str(self._version))
                except FileNotFoundError:  # the run has dropped samples: the next look shows it
                    pass
                except OSError as error:  # a full disk, say: the page stays as it is until it can be written
                    self._say(f"the page does not follow the run for now: {error}")
            self._looked = time.monotonic()

    def _say(self, problem: str) -> None:
        if problem != self._said:
            print(f"warning: {printable(problem)}", file=sys.stderr, flush=True)
        self._said = problem

    def read(self, address: str) -> tuple[str, bytes] | None:
        """The type and the content of what an address names; None where that is no part of the view."""
        found = _ADDRESS.fullmatch("/index.html" if address == "/" else address)
        if found is None:
            return None
        folder, name = found.groups()
        is_known = {
            None: name in (PAGE, STYLE, ICON, *SCRIPTS),
            DATA: DATA_NAME.fullmatch(name) is not None,
            IMAGES: IMAGE_NAME.fullmatch(name) is not None,
        }
        if not is_known[folder]:
            return None
        if name == "version.js":
            self.refresh()
        with self._lock, contextlib.suppress(OSError):
            path = self.folder / name if folder is None else self.folder / folder / name
            return TYPES[name.rpartition(".")[2]], path.read_bytes()
        return None


def _state(workdir: pathlib.Path) -> Any:
    """What changes when a run goes on: its metrics, and its samples."""
    state: list[Any] = []
    for path in (workdir / METRICS, workdir / SAMPLES):
        with contextlib.suppress(OSError):
            found = path.stat()
            state.append((found.st_size, found.st_mtime_ns))
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(workdir / SAMPLES))[-2:]
        state += [(name, sorted(os.listdir(workdir / SAMPLES / name))) for name in names]
    return state


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests for parts of `view`, and no others."""

    server: _Server
    timeout = IDLE
    server_version, sys_version = "view", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if self.headers.get("Host") not in self.server.names:
            return self._send(403, TYPES["html"], b"This page answers to its own address alone.", with_body)
        found = self.server.view.read(self.path)
        if found is None:
            return self._send(404, TYPES["html"], b"There is no such page.", with_body)
        self._send(200, *found, with_body)

    def _send(self, status: int, kind: str, content: bytes, with_body: bool) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Says nothing: what a client sends is not shown in a terminal."""


class _Server(http.server.ThreadingHTTPServer):
    """Answers at most `CLIENTS` at once, and lets go of those beyond."""

    daemon_threads = True

    def __init__(self, view: LiveView, port: int):
        super().__init__((HOST, port), _Handler)
        self.view = view
        self.names = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self._free = threading.BoundedSemaphore(CLIENTS)

    def process_request(self, request: Any, address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, address: Any) -> None:
        try:
            super().process_request_thread(request, address)
        finally:
            self._free.release()

    def handle_error(self, *_: Any) -> None:
        """A client that has gone is no error."""


def server_of(view: LiveView, port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server of a view on this machine's own address; port 0 takes a free one.

    Raises:
      UserError: the port cannot be had.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port must be between 0 and 65535, got {port}")
    try:
        return _Server(view, port)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}: choose another one, or none") from None


def serve(run: str, model: str | None = None, port: int = 0) -> None:
    """Serves a view of a run until Ctrl-C, and says where.

    Raises:
      UserError: it is no run, or the port cannot be had.
    """
    folder = pathlib.Path(as_path(run))
    if (folder / CONFIG).is_file() and not (folder / METRICS).is_file() and not (folder / SAMPLES).is_dir():
        raise UserError(f"--live {run}: it has no {METRICS} yet, which its run writes once its model is loaded")
    found = find_sources([run])
    if len(found) > 1 or found[0].kind != "run":
        raise UserError(f"--live {run} is not the working directory of one run: it has no {METRICS}")
    with tempfile.TemporaryDirectory(prefix="pixel-reasoner-view-") as folder:
        view = LiveView(found[0], pathlib.Path(folder), model)
        with server_of(view, port) as server:
            print(
                f"following {printable(found[0].name)}: http://{HOST}:{server.server_port}/ (Ctrl-C ends)", flush=True
            )
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever(poll_interval=0.2)
    print("ended")
