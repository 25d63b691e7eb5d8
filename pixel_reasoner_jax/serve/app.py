"""The routes of the server: chat completions, the model's name, its health and its counters."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hmac
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pixel_reasoner_jax.rollout.live import sum_of
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.serve import page_routes
from pixel_reasoner_jax.serve.answer import Answer, Inbox, Post
from pixel_reasoner_jax.serve.engine import Engine
from pixel_reasoner_jax.serve.errors import ApiError
from pixel_reasoner_jax.serve.metrics import ServerMetrics
from pixel_reasoner_jax.serve.replies import Reply
from pixel_reasoner_jax.serve.request import EXTRA, RequestLimits, read_body

BODY_SECONDS = 60.0  # in which a body must have come
SMALL = 2**16  # bytes of a body that is read without a thread, which would take longer
BODIES = 8  # largest bodies that are held at once while they come


@dataclasses.dataclass(frozen=True)
class Offer:
    """A model that is served: the engine that runs it, and how it was trained to be prompted."""

    engine: Engine
    settings: PolicySettings = PolicySettings()


class Service:
    """Answers the requests of HTTP.

    Args:
      offers: models by the names that clients call them by.
      limits: of a request.
      api_key: what clients must show; None: nothing.
    """

    def __init__(self, offers: Mapping[str, Offer], limits: RequestLimits, api_key: str | None = None):
        self.offers, self.limits = dict(offers), limits
        self.metrics = ServerMetrics()
        self._key = None if api_key is None else api_key.encode()
        self._created = int(time.time())
        self._post: Post | None = None  # of the loop, which runs when the first request comes
        self._coming = 0  # bytes of bodies that have not come whole

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the body runs, so do the engines."""
        with contextlib.ExitStack() as stack:
            for offer in self.offers.values():
                stack.enter_context(offer.engine)
            yield

    def app(self) -> Starlette:
        """The application for an ASGI server."""
        routes = [
            Route("/v1/chat/completions", self.completions, methods=["POST"]),
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", self._guarded(self._one_model), methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._guarded(self._counters), methods=["GET"]),
            *page_routes.routes(self._guarded),
        ]
        handlers = {404: self._no_route, 405: self._no_route, 500: self._bug}
        return Starlette(routes=routes, exception_handlers=handlers)

    @property
    def has_key(self) -> bool:
        """Whether clients must show a key."""
        return self._key is not None

    async def completions(self, request: Request) -> Response:
        """Answers a chat completion."""
        began = time.monotonic()
        try:
            self._check_key(request)
            body = await self._body(request)
            if len(body) > SMALL:
                asked = await asyncio.to_thread(read_body, body, self.offers, self.limits)
            else:
                asked = read_body(body, self.offers, self.limits)
            del body
            inbox = Inbox()
            self._post = self._post or Post()
            engine = self.offers[asked.model].engine
            ticket = engine.submit(asked, functools.partial(self._post.send, inbox))
        except ApiError as error:
            return self.refusal(error)
        except ClientDisconnect:
            self.metrics.count_request("hung_up")
            return Response(status_code=499)
        return Answer(engine, self.metrics, ticket, Reply(ticket, engine.policy.processor), inbox, began)

    async def _body(self, request: Request) -> bytes:
        """The body of a request, of which no more is read than the limit."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # no page of another site can send this without asking first
            raise ApiError(415, "Content-Type must be application/json")
        most, body = self.limits.body_bytes, bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    body += piece
                    self._coming += len(piece)
                    if len(body) > most:
                        raise ApiError(413, f"the body has more than {most:,} bytes")
                    if self._coming > BODIES * most:
                        raise ApiError(429, "too many large requests are coming: ask again later", code="queue_full")
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {BODY_SECONDS:g} seconds") from None
        finally:
            self._coming -= len(body)
        return bytes(body)

    def _check_key(self, request: Request) -> None:
        """Raises ApiError where the request does not show the key."""
        if self._key is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._key)
        if kind.lower() != "bearer" or not is_right:
            raise ApiError(401, "the API key is missing or wrong: send Authorization: Bearer KEY")

    def _guarded(self, answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                self._check_key(request)
                return answer(request)
            except ApiError as error:
                return self.refusal(error)

        return guarded

    def refusal(self, error: ApiError) -> Response:
        """What a request is answered that is refused; it is counted."""
        self.metrics.count_request(error.status)
        return JSONResponse(error.body, error.status, error.headers)

    def _about(self, name: str) -> dict[str, Any]:
        offer = self.offers[name]
        own = {
            "settings": dataclasses.asdict(offer.settings),
            "budgets": dataclasses.asdict(offer.engine.policy.processor.budgets),
        }
        return {"id": name, "object": "model", "created": self._created, "owned_by": "pixel_reasoner_jax", EXTRA: own}

    def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [*map(self._about, self.offers)]})

    def _one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.offers:
            raise ApiError(404, "there is no such model; /v1/models names those there are", "model", "model_not_found")
        return JSONResponse(self._about(name))

    async def _health(self, _: Request) -> Response:
        is_well = all(offer.engine.is_well for offer in self.offers.values())
        return JSONResponse({"status": "ok" if is_well else "ending"}, 200 if is_well else 503)

    def _counters(self, _: Request) -> Response:
        load = sum_of(offer.engine.load for offer in self.offers.values())
        return PlainTextResponse(self.metrics.text(load), media_type="text/plain; version=0.0.4")

    async def _no_route(self, request: Request, error: Any) -> Response:
        said = "there is nothing at this path" if error.status_code == 404 else "this path does not take this method"
        return JSONResponse(ApiError(error.status_code, said).body, error.status_code, error.headers)

    async def _bug(self, request: Request, error: Exception) -> Response:
        return JSONResponse(ApiError(500, "the server has failed in this request").body, 500)
