"""Runs the server until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import socket
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.report.text import printable
from pixel_reasoner_jax.serve.app import Service
from pixel_reasoner_jax.serve.errors import ApiError

BACKLOG = 512  # connections that wait to be taken
FORCED_SECONDS = 5  # for connections to end, once their requests have


class ThisMachineOnly:
    """Answers only requests that call the server by a name of this machine.

    A page of the web can have its own name lead here once a browser has opened it, and would then count as the same
    site; the browser still sends that name as the host.
    """

    def __init__(self, service: Service):
        self._service, self._app = service, service.app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        if scope["type"] == "http" and not is_loopback(_named_host(scope)):
            app = self._service.refusal(ApiError(403, "this server is called 127.0.0.1 or localhost, by no other name"))
        await app(scope, receive, send)


def _named_host(scope: Scope) -> str:
    """The host that a request names, without its port; "" for none."""
    named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    with contextlib.suppress(ValueError):
        return urllib.parse.urlsplit(f"//{named}").hostname or ""
    return ""


class Server(uvicorn.Server):
    """Ends when the requests that it has taken have ended, after `grace` seconds, or with a second Ctrl-C.

    Without a key, one that listens on this machine alone answers only to its names.

    Attributes:
      dropped: how many requests had not ended.
    """

    def __init__(self, service: Service, host: str, port: int, grace: float):
        config = uvicorn.Config(
            ThisMachineOnly(service) if is_loopback(host) and not service.has_key else service.app(),
            host=host,
            port=port,
            log_config=None,  # its own would close the log handlers of the process
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=FORCED_SECONDS,
            lifespan="off",
        )
        super().__init__(config)
        self._service, self._grace, self.dropped = service, grace, 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        engines = [offer.engine for offer in self._service.offers.values()]
        closing = [asyncio.to_thread(engine.close, self._grace, lambda: self.force_exit) for engine in engines]
        self.dropped = sum(await asyncio.gather(*closing))
        several = f"{self.dropped} requests had not ended and were"
        were = "1 request had not ended and was" if self.dropped == 1 else several
        said = f"ended; {were} dropped" if self.dropped else "ended"
        print(said, flush=True)  # here: afterwards uvicorn raises the signal again, which ends the process
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A socket that has an address, where nothing answers yet: `listen` begins.

    Raises:
      UserError: the address cannot be had.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port must be between 0 and 65535, got {port}")
    with _taken_is_said(host, port):
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((host, port))
        except BaseException:
            bound.close()
            raise
        return bound


def listen(bound: socket.socket) -> int:
    """Takes connections from now on; the port.

    Raises:
      UserError: another program has begun to listen there meanwhile.
    """
    host, port = bound.getsockname()[:2]
    with _taken_is_said(host, port):
        bound.listen(BACKLOG)
    return port


@contextlib.contextmanager
def _taken_is_said(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}: choose another one") from None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def serve(service: Service, bound: socket.socket, host: str, grace: float) -> None:
    """Serves until Ctrl-C or SIGTERM, and says where, and what was dropped in the end.

    Args:
      service: what is served.
      bound: as `bind` makes it for `host`.
      host: as the user gave it.
      grace: seconds that requests have to end in.
    """
    if not is_loopback(host) and not service.has_key:
        print("warning: everyone who can reach this host may use the model: give --api-key", file=sys.stderr)
    port, shown = listen(bound), f"[{host}]" if ":" in host else host
    names = ", ".join(map(printable, service.offers))
    print(f"{names}: http://{shown}:{port}/v1 (Ctrl-C ends)", flush=True)
    server = Server(service, host, port, grace)
    # Half a million objects of models and libraries stay until the end. To look through them for garbage, as Python
    # does now and then, would halt all requests for a third of a second.
    gc.freeze()
    with service.running(), contextlib.suppress(KeyboardInterrupt):
        server.run([bound])


@contextlib.contextmanager
def in_thread(service: Service, grace: float = 0.0) -> Iterator[tuple[str, Any]]:
    """A server on a free port of this machine, in a thread of this process.

    Yields:
      Its address, and the server.
    """
    with bind("127.0.0.1", 0) as bound, service.running():
        port = listen(bound)
        server = Server(service, "127.0.0.1", 0, grace)
        server.install_signal_handlers = lambda: None
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}", server
        finally:
            server.should_exit = True
            thread.join(60.0)
