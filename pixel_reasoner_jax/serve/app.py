"""The routes of the server: chat completions, the model's name, its health and its counters."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pixel_reasoner_jax.rollout.dialogue import TurnText
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.serve.engine import Engine, Ticket, Update
from pixel_reasoner_jax.serve.errors import ApiError
from pixel_reasoner_jax.serve.metrics import ServerMetrics
from pixel_reasoner_jax.serve.replies import EXTRA, Reply
from pixel_reasoner_jax.serve.request import RequestLimits, read_body

BODY_SECONDS = 60.0  # in which a body must have come
BODIES = 8  # largest bodies that are held at once while they come

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Service:
    """Answers the requests of HTTP.

    Args:
      engine: runs the model.
      model: the name that clients call it by.
      limits: of a request.
      api_key: what clients must show; None: nothing.
      settings: how the model was trained to be prompted, which evaluations ask for.
    """

    def __init__(
        self,
        engine: Engine,
        model: str,
        limits: RequestLimits,
        api_key: str | None = None,
        settings: PolicySettings | None = None,
    ):
        self.engine, self.model, self.limits = engine, model, limits
        self.metrics = ServerMetrics()
        self._key = None if api_key is None else api_key.encode()
        self._created, self._settings = int(time.time()), settings or PolicySettings()
        self._coming = 0  # bytes of bodies that have not come whole

    def app(self) -> Starlette:
        """The application for an ASGI server."""
        routes = [
            Route("/v1/chat/completions", self.completions, methods=["POST"]),
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", self._guarded(self._one_model), methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._guarded(self._counters), methods=["GET"]),
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
            asked = await asyncio.to_thread(read_body, body, self.model, self.limits)
            del body
            updates: asyncio.Queue[Update] = asyncio.Queue()
            ticket = self.engine.submit(asked, Mailbox(updates))
        except ApiError as error:
            return self.refusal(error)
        except ClientDisconnect:
            self.metrics.count_request("hung_up")
            return Response(status_code=499)
        reply = Reply(ticket, self.model, self.engine.policy.processor)
        return Answer(self, ticket, reply, updates, began)

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

    def _about(self) -> dict[str, Any]:
        own = {
            "settings": dataclasses.asdict(self._settings),
            "budgets": dataclasses.asdict(self.engine.policy.processor.budgets),
        }
        about = {"id": self.model, "object": "model", "created": self._created, "owned_by": "pixel_reasoner_jax"}
        return about | {EXTRA: own}

    def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._about()]})

    def _one_model(self, request: Request) -> Response:
        if request.path_params["name"] != self.model:
            raise ApiError(404, "there is no such model; /v1/models names it", "model", "model_not_found")
        return JSONResponse(self._about())

    async def _health(self, _: Request) -> Response:
        return JSONResponse(
            {"status": "ok"} if self.engine.is_well else {"status": "ending"}, 200 if self.engine.is_well else 503
        )

    def _counters(self, _: Request) -> Response:
        return PlainTextResponse(self.metrics.text(self.engine.load), media_type="text/plain; version=0.0.4")

    async def _no_route(self, request: Request, error: Any) -> Response:
        said = "there is nothing at this path" if error.status_code == 404 else "this path does not take this method"
        return JSONResponse(ApiError(error.status_code, said).body, error.status_code, error.headers)

    async def _bug(self, request: Request, error: Exception) -> Response:
        return JSONResponse(ApiError(500, "the server has failed in this request").body, 500)


class Mailbox:
    """Brings updates from the engine's threads to the loop that made it, which it wakes once for many."""

    def __init__(self, updates: asyncio.Queue[Update]):
        self._updates, self._loop = updates, asyncio.get_running_loop()
        self._lock, self._pending = threading.Lock(), []

    def __call__(self, update: Update) -> None:
        with self._lock:
            self._pending.append(update)
            if len(self._pending) > 1:  # the loop has been woken for the first
                return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
        for update in pending:
            self._updates.put_nowait(update)


class Answer(Response):
    """The answer to a request in the batch, which leaves it when the client hangs up.

    The status is sent with the first that the engine says of the request, so that what is wrong with its media is told
    as any other mistake.
    """

    def __init__(self, service: Service, ticket: Ticket, reply: Reply, updates: asyncio.Queue[Update], began: float):
        self._service, self._ticket, self._reply, self._updates = service, ticket, reply, updates
        self._began, self._is_first, self._held = began, True, None
        self.background = None

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        status: int | str = "hung_up"
        try:
            status = await (self._stream if self._ticket.request.stream else self._whole)(gone, send)
        except (_Gone, OSError):
            pass
        except ApiError as error:
            status = error.status
            with contextlib.suppress(OSError):
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
        finally:
            gone.cancel()
            self._service.engine.drop(self._ticket)
            self._service.metrics.count_request(status)

    async def _next(self, gone: asyncio.Future) -> Update:
        """What the engine says next.

        Raises:
          _Gone: the client has hung up.
          ApiError: the request has failed.
        """
        if self._held is not None and not gone.done():
            update, self._held = self._held, None
            if isinstance(update, ApiError):
                raise update
            return update
        waiting = asyncio.ensure_future(self._updates.get())
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done() or gone.done():
            waiting.cancel()
            raise _Gone
        update = waiting.result()
        if isinstance(update, ApiError):
            raise update
        return update

    async def _pieces(self, gone: asyncio.Future) -> list[dict[str, Any]]:
        """The pieces of a streamed answer that the next update makes."""
        update = await self._next(gone)
        if isinstance(update, Prompt):
            self._reply.prompt = update
            return self._reply.begin()
        if isinstance(update, TurnText):
            update = self._joined(update)
        if self._is_first:
            self._is_first = False
            self._service.metrics.time_first(time.monotonic() - self._began)
        # An operation's images are encoded here.
        return (
            await asyncio.to_thread(self._reply.add, update) if hasattr(update, "images") else self._reply.add(update)
        )

    def _joined(self, text: TurnText) -> TurnText:
        """The text with what else has come of the same turn: tokens that were written together are sent together."""
        more = []
        while not self._updates.empty():
            following = self._updates.get_nowait()
            if not isinstance(following, TurnText) or (following.sample, following.turn) != (text.sample, text.turn):
                self._held = following
                break
            more.append(following.text)
        return dataclasses.replace(text, text="".join([text.text, *more])) if more else text

    def _count(self) -> None:
        usage = self._reply.usage()
        images = usage["prompt_tokens_details"]["image_tokens"]
        self._service.metrics.count_tokens(usage["prompt_tokens"], images, usage["completion_tokens"])
        self._service.metrics.time_whole(time.monotonic() - self._began)

    async def _whole(self, gone: asyncio.Future, send: Send) -> int:
        while not self._reply.is_complete:
            await self._pieces(gone)
        self._count()
        body = json.dumps(self._reply.whole()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return 200

    async def _stream(self, gone: asyncio.Future, send: Send) -> int:
        pieces = await self._pieces(gone)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await _send_pieces(send, pieces)
            while not self._reply.is_complete:
                await _send_pieces(send, await self._pieces(gone))
        except ApiError as error:  # the status has been sent
            await _send_pieces(send, [error.body])
            await send({"type": "http.response.body", "body": b""})
            return error.status
        self._count()
        if self._ticket.request.with_usage:
            await _send_pieces(send, [self._reply.last()])
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        return 200


class _Gone(Exception):
    """The client has hung up."""


async def _disconnected(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_pieces(send: Send, pieces: list[dict[str, Any]]) -> None:
    if pieces:
        body = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces).encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
