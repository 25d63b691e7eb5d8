"""The answer to a request in the batch: what the engine's threads say of it goes out through the server's loop."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse, Response

from pixel_reasoner_jax.rollout.dialogue import OperationRun, TurnText
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.serve.engine import Engine, Ticket, Update
from pixel_reasoner_jax.serve.errors import ApiError
from pixel_reasoner_jax.serve.metrics import ServerMetrics
from pixel_reasoner_jax.serve.replies import Reply

SEND_SECONDS = 60.0  # in which a client must have taken what is sent

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Post:
    """Brings updates from the engine's threads to the loop that made it, which it wakes once for all that are here."""

    def __init__(self) -> None:
        self._loop, self._lock = asyncio.get_running_loop(), threading.Lock()
        self._pending: list[tuple[Inbox, Update]] = []

    def send(self, inbox: Inbox, update: Update) -> None:
        """Sends an update, from any thread."""
        with self._lock:
            self._pending.append((inbox, update))
            if len(self._pending) > 1:  # the loop has been woken for the first
                return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
        for inbox, update in pending:
            inbox.put(update)


class Inbox:
    """The updates of one request, on the loop."""

    def __init__(self) -> None:
        self._updates: collections.deque[Update] = collections.deque()
        self._waiting: asyncio.Future[None] | None = None
        self._is_gone = False

    def put(self, update: Update) -> None:
        self._updates.append(update)
        self._wake()

    def hang_up(self) -> None:
        """Says that the client has gone."""
        self._is_gone = True
        self._wake()

    async def next(self) -> Update:
        """The next update; texts of a turn that have come together are one.

        Raises:
          Gone: the client has hung up.
        """
        while not (self._updates or self._is_gone):
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if self._is_gone:
            raise Gone
        update = self._updates.popleft()
        return self._joined(update) if isinstance(update, TurnText) else update

    def _joined(self, text: TurnText) -> TurnText:
        texts = [text.text]
        while self._updates:
            following = self._updates[0]
            if not isinstance(following, TurnText) or (following.sample, following.turn) != (text.sample, text.turn):
                break
            texts.append(self._updates.popleft().text)
        return text if len(texts) == 1 else dataclasses.replace(text, text="".join(texts))

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Gone(Exception):
    """The client has hung up."""


class Answer(Response):
    """The answer to a request in the batch, which leaves it when the client hangs up.

    The status is sent with the first that the engine says of the request, so that what is wrong with its media is told
    as any other mistake.

    Args:
      began: when the request came, of `time.monotonic`.
    """

    def __init__(
        self, engine: Engine, metrics: ServerMetrics, ticket: Ticket, reply: Reply, inbox: Inbox, began: float
    ):
        self._engine, self._metrics, self._ticket = engine, metrics, ticket
        self._reply, self._inbox, self._began, self._is_first = reply, inbox, began, True
        self.background = None

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        watching = asyncio.ensure_future(self._watch(receive))
        status: int | str = "hung_up"
        send = functools.partial(_in_time, send)
        try:
            status = await (self._stream if self._ticket.request.stream else self._whole)(send)
        except (Gone, OSError):
            pass
        except ApiError as error:
            status = error.status
            with contextlib.suppress(Gone, OSError):
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
        finally:
            watching.cancel()
            self._engine.drop(self._ticket)
            self._metrics.count_request(status)

    async def _watch(self, receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._inbox.hang_up()

    async def _pieces(self) -> list[dict[str, Any]]:
        """The pieces of a streamed answer that the next update makes.

        Raises:
          Gone: the client has hung up.
          ApiError: the request has failed.
        """
        update = await self._inbox.next()
        if isinstance(update, ApiError):
            raise update
        if isinstance(update, Prompt):
            if self._ticket.request.with_frames:  # which are encoded
                return await asyncio.to_thread(self._reply.begin, update)
            return self._reply.begin(update)
        if self._is_first:
            self._is_first = False
            self._metrics.time_first(time.monotonic() - self._began)
        if isinstance(update, OperationRun):  # its images are encoded
            return await asyncio.to_thread(self._reply.add, update)
        return self._reply.add(update)

    def _count(self) -> None:
        usage = self._reply.usage()
        images = usage["prompt_tokens_details"]["image_tokens"]
        self._metrics.count_tokens(usage["prompt_tokens"], images, usage["completion_tokens"])
        self._metrics.time_whole(time.monotonic() - self._began)

    async def _whole(self, send: Send) -> int:
        while not self._reply.is_complete:
            await self._pieces()
        self._count()
        await JSONResponse(self._reply.whole())({"type": "http"}, None, send)
        return 200

    async def _stream(self, send: Send) -> int:
        pieces = await self._pieces()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await _send_pieces(send, pieces)
            while not self._reply.is_complete:
                pieces = await self._pieces()
                if not self._reply.is_complete:
                    await _send_pieces(send, pieces)
        except ApiError as error:  # the status has been sent
            await _send_pieces(send, [error.body], b"")
            return error.status
        self._count()
        if self._ticket.request.with_usage:
            pieces = [*pieces, self._reply.last()]
        await _send_pieces(send, pieces, b"data: [DONE]\n\n")
        return 200


async def _in_time(send: Send, message: dict[str, Any]) -> None:
    """Sends a message; a client that does not take it in time counts as gone."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await send(message)
    except TimeoutError:
        raise Gone from None


async def _send_pieces(send: Send, pieces: list[dict[str, Any]], end: bytes | None = None) -> None:
    """Sends pieces, and where there is an `end`, this last of all."""
    if pieces or end is not None:
        body = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces).encode()
        await send({"type": "http.response.body", "body": body + (end or b""), "more_body": end is None})
