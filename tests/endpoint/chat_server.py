"""A server that speaks the chat completions protocol over HTTP, and fails in whatever way a test asks for."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["Exchange"], None]


def said(request: dict[str, Any]) -> str:
    """The text of a request's last message."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(item["text"] for item in content if item["type"] == "text")


def pictures(request: dict[str, Any]) -> list[str]:
    return [item["image_url"]["url"] for item in request["messages"][-1]["content"] if item["type"] == "image_url"]


def sensible(request: dict[str, Any]) -> str:
    """What a good model might write: words that depend on the request alone."""
    mark = "".join("abcdefghij"[int(byte) % 10] for byte in hashlib.sha256(json.dumps(request).encode()).digest()[:8])
    if "Reply with a JSON object alone" in said(request):
        return json.dumps({"question": f"What is written on the sign {mark}?", "answer": f"word {mark}"})
    return f"the part called {mark}" if "noun phrase" in said(request) else f"I look at it and see {mark} there."


class Exchange:
    """One request, to be answered."""

    def __init__(self, handler: BaseHTTPRequestHandler, request: dict[str, Any], number: int):
        self.handler, self.request, self.number = handler, request, number

    def send(self, status: int, body: str | dict[str, Any], **headers: str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.begin(status, len(data), **headers)
        self.handler.wfile.write(data)
        self.handler.close_connection = "Content_Length" in headers

    def begin(self, status: int, length: int, **headers: str) -> None:
        """The status and the headers."""
        self.handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content_Length": str(length), **headers}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()

    def say(self, text: str | None, finish: str = "stop", refusal: str | None = None) -> None:
        """A completion of 100 tokens read and 10 written."""
        message = {"role": "assistant", "content": text, "refusal": refusal}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": self.request["model"]}
        self.send(200, {**body, "choices": [choice], "usage": usage})

    def fail(self, status: int, message: str = "no", code: str | None = None, **headers: str) -> None:
        self.send(status, {"error": {"message": message, "type": "error", "code": code}}, **headers)

    def hang(self, seconds: float) -> None:
        time.sleep(seconds)
        self.handler.close_connection = True

    def hang_up(self) -> None:
        self.handler.close_connection = True
        self.handler.connection.shutdown(socket.SHUT_RDWR)


class ChatServer:
    """A context manager.

    Args:
      reply: answers an exchange; a good model's answer unless given.

    Attributes:
      url: what `base_url` must be.
      requests: what was asked, in order; keys: the authorization headers.
      most: requests that were under way at once.
    """

    def __init__(self, reply: Reply | None = None):
        self.reply = reply or (lambda exchange: exchange.say(sensible(exchange.request)))
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.most = self._under_way = 0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()

    def answer(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        with self.lock:
            self.requests.append(request)
            self.keys.append(handler.headers.get("Authorization"))
            self.times.append(time.monotonic())
            number = len(self.requests)
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            self.reply(Exchange(handler, request, number))
        finally:
            with self.lock:
                self._under_way -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.send_error(404)
            return
        self.chat.answer(self, request)

    def log_message(self, *_) -> None:
        pass
