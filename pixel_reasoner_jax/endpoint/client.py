"""A client for a model behind an OpenAI-compatible endpoint, with retries, limits and a cache on disk.

Transient failures (429, 5xx, time-outs, lost connections, malformed answers) are retried after the time that
`Retry-After` says, or after a doubling time with jitter. A failure that persists stops the run, which can be started
again later: answers are cached by a hash of the request and cost nothing then. Refusals, truncated and empty answers
are answers too, and are cached. A server's answer is untrusted: only so much of it is read, for so long.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import email.utils
import hashlib
import http.cookiejar
import json
import math
import os
import pathlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pixel_reasoner_jax.endpoint.completion import (
    Account,
    Completion,
    Spend,
    clip,
    read_cache,
    read_completion,
    write_cache,
)
from pixel_reasoner_jax.errors import UserError, shown

RETRIED_STATUSES = (408, 409, 425, 429)
"""HTTP statuses below 500 that are retried."""

FATAL_STATUSES = (401, 402, 403, 404)
"""HTTP statuses that any other request would get too: they stop the run."""

FILTER_CODES = ("content_filter", "content_policy_violation")
"""Error codes about the content of one request. Other errors stop the run, if no request has succeeded before."""

LONGEST_WAIT = 60.0
"""The most seconds between two attempts, unless the server asks for more."""

MOST_BYTES = 2**23
"""The most bytes of an answer's body that are read."""

MOST_TOKENS = ("max_tokens", "max_completion_tokens")
"""What servers call the most tokens of an answer; those that refuse the first name ask for the second."""

_TOO_LONG = re.compile(r"context[ _](length|window)|(prompt|input|messages?) (is|are) too long", re.IGNORECASE)


class EndpointError(UserError):
    """The endpoint cannot be used, now or at all. The run stops; started again, it goes on where it was."""


class RequestError(UserError):
    """The endpoint gives no answer to one request; others it may answer."""


class NoAnswerError(RequestError):
    """The endpoint did not answer the request, however often it was asked."""


class FilteredError(RequestError):
    """The endpoint's filter refuses what the request says or shows."""


class ContextError(RequestError):
    """The request is longer than the model's context."""


@dataclasses.dataclass(frozen=True)
class EndpointSettings:
    """The settings of an `Endpoint`.

    Attributes:
      model: its name.
      base_url: of the server; None for OPENAI_BASE_URL, or if that is not set, OpenAI's own. The key is OPENAI_API_KEY.
      temperature, max_tokens: of an answer, unless the request says otherwise.
      timeout: seconds that an attempt may take.
      attempts: for one request, before the run stops.
      requests_per_minute: the most that are sent; None for no limit.
      concurrency: the most requests under way at once.
      prompt_price, completion_price: of a million tokens.
      budget: the most that this run may cost, at all endpoints of its account; None for no limit.
      cache: the folder of cached answers.
      isolated: a request that fails for good fails alone, with a `RequestError`. Otherwise it stops the run, unless
        the endpoint has only refused it and taken others.

    Raises:
      UserError: a value is out of range, or `base_url` is no URL.
    """

    model: str
    base_url: str | None = None
    temperature: float = 0.7
    max_tokens: int = 400
    timeout: float = 120.0
    attempts: int = 8
    requests_per_minute: float | None = None
    concurrency: int = 8
    prompt_price: float = 0.0
    completion_price: float = 0.0
    budget: float | None = None
    cache: str | os.PathLike = pathlib.Path.home() / ".cache" / "pixel_reasoner_jax" / "captions"
    isolated: bool = False

    def __post_init__(self):
        if self.base_url is not None and not re.match(r"https?://[^/\s]", self.base_url):
            raise UserError(f"{shown(self.base_url)} is no URL of a server, such as http://localhost:8000/v1")
        for name in ("max_tokens", "timeout", "attempts", "requests_per_minute", "concurrency"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name.replace('_', ' ')} must be above 0, got {value}")
        for name in ("temperature", "prompt_price", "completion_price", "budget"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name.replace('_', ' ')} must be 0 or more, got {value}")


class Endpoint:
    """The client; many threads may use it at once.

    Args:
      settings: see `EndpointSettings`.
      account: of the run, where it asks several endpoints.

    Attributes:
      spend: the cost of this run so far.

    Raises:
      EndpointError: the client is not installed, or there is no key where one is needed.
    """

    def __init__(self, settings: EndpointSettings, account: Account | None = None):
        try:
            import openai  # an extra
        except ImportError:
            raise EndpointError(
                'asking a model needs openai, which comes with pip install "pixel-reasoner-jax[endpoint]"'
            ) from None
        base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL")
        key = os.environ.get("OPENAI_API_KEY")
        if not key and not base_url:
            raise EndpointError("set OPENAI_API_KEY to your key, or name a server that needs none")
        self.settings, self._openai = settings, openai
        # Its own retries would not be counted, nor end when the run does.
        http_client = openai.DefaultHttpxClient(event_hooks={"response": [self._bound]})
        # Cookies of a server could fill the memory, one at a time.
        http_client.cookies.jar.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=base_url,
            timeout=settings.timeout,
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},
            http_client=http_client,
        )
        self._cache = pathlib.Path(settings.cache)
        self._slots = threading.Semaphore(settings.concurrency)
        self._rate = RateLimit(settings.requests_per_minute)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._stop_error = EndpointError("the run is ending")
        self._account = account or Account()
        self._limit = MOST_TOKENS[0]  # how this server calls it
        self._takes_tools = True
        self.spend = Spend()

    @property
    def url(self) -> str:
        """Where the requests go."""
        return str(self._client.base_url)

    def close(self, grace: float = 0.0) -> None:
        """Ends all waiting, and refuses new requests; for `grace` seconds those under way may still be answered."""
        self._closed.set()
        end = time.monotonic() + grace
        for _ in range(self.settings.concurrency):
            if not self._slots.acquire(timeout=max(end - time.monotonic(), 0.0)):
                break
        self._client.close()

    def own_description(self) -> dict[str, Any] | None:
        """What a server of ours says of its model beside its name, as it says it; None of other servers."""
        try:
            raw = self._client.models.with_raw_response.retrieve(self.settings.model)
            said = json.loads(raw.http_response.content)["pixel_reasoner"]
        except (self._openai.OpenAIError, _TransientError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return said if isinstance(said, dict) else None

    def complete(self, messages: list[dict[str, Any]], attempt: int = 0, **options: Any) -> Completion:
        """The answer to a conversation, from the cache or the endpoint.

        Args:
          messages: in the endpoint's form, with images as data URLs.
          attempt: another number asks for another answer to the same messages.
          options: of the request, such as `seed`, in place of the settings' and beside them; those that OpenAI's
            protocol does not have are a mapping, `extra_body`.

        Raises:
          EndpointError: the endpoint cannot be used.
          RequestError: the endpoint refuses this request, but not others.
        """
        request = {
            "model": self.settings.model,
            "messages": messages,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            **options,
        }
        key = hashlib.sha256(json.dumps([request, attempt], sort_keys=True).encode()).hexdigest()
        file = self._cache / key[:2] / f"{key}.json"
        completion, paid = read_cache(file), False
        if completion is None:
            completion, paid = self._reply(request), True
            write_cache(file, completion)
        spend = self._cost(completion, paid)
        with self._lock:
            self.spend += spend
        self._account.add(spend.paid_cost)
        return dataclasses.replace(completion, spend=spend)

    def _cost(self, answer: Completion, paid: bool) -> Spend:
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        cost = (prompt * self.settings.prompt_price + completion * self.settings.completion_price) / 1e6
        return Spend(1, int(paid), prompt, completion, cost, cost if paid else 0.0)

    def _reply(self, request: dict[str, Any]) -> Completion:
        """A reply to one request. If the endpoint cannot be used, the run ends: all threads raise the same error."""
        try:
            return self._retry(request)
        except EndpointError as error:
            with self._lock:
                if not self._closed.is_set():
                    self._stop_error = error
                    self._closed.set()
            raise self._stop_error from None

    def _retry(self, request: dict[str, Any]) -> Completion:
        """A reply to one request, after at most `attempts` attempts."""
        if self._closed.is_set():
            raise self._stop_error
        budget, spent = self.settings.budget, self._account.spent
        if budget is not None and spent >= budget:
            raise EndpointError(f"{spent:.2f} were spent, the budget of {budget:g} is used up")
        problem = ""
        for attempt in range(self.settings.attempts):
            with self._slots:
                self._rate.wait(self._pause)
                try:
                    return self._attempt(request)
                except _TransientError as error:
                    problem, wait = str(error), error.wait
            if attempt + 1 < self.settings.attempts:
                backoff = min(2.0**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
                self._pause(backoff if wait is None else wait + backoff * 0.1)
        said = f"{self._client.base_url} did not answer in {self.settings.attempts} attempts; the last one: {problem}"
        if self.settings.isolated:
            raise NoAnswerError(said)
        raise EndpointError(f"{said}. What was answered before is kept: start the same command again")

    def _attempt(self, request: dict[str, Any]) -> Completion:
        """One attempt; raises `_TransientError` if another one may succeed."""
        openai, limit = self._openai, self._limit
        renamed = {limit if name == MOST_TOKENS[0] else name: value for name, value in request.items()}
        if not self._takes_tools:
            renamed.pop("tools", None)
        try:
            raw = self._client.chat.completions.with_raw_response.create(**renamed)
        except openai.APIStatusError as error:
            if error.status_code == 400 and limit != MOST_TOKENS[1] and MOST_TOKENS[1] in error.message:
                self._limit = MOST_TOKENS[1]
                return self._attempt(request)
            if error.status_code in (400, 422) and "tools" in renamed and "tool" in error.message.lower():
                # Some servers take no functions, or no empty list of them; the messages describe them too.
                answer = self._attempt({name: value for name, value in request.items() if name != "tools"})
                self._takes_tools = False
                return answer
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:  # a time-out is one
            raise _TransientError(f"{type(error).__name__} ({clip(error.__cause__ or error)})") from None
        try:
            return read_completion(json.loads(raw.http_response.content))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            problem = f"its answer is not a chat completion ({type(error).__name__}: {clip(error)})"
            raise _TransientError(problem) from None

    def _refusal(self, error: Any) -> Exception:
        """What an answer with a status of 400 or above means."""
        code, said = getattr(error, "code", None), f"status {error.status_code}, {clip(error.message)}"
        if error.status_code in FATAL_STATUSES or code == "insufficient_quota":
            return EndpointError(f"{self._client.base_url} refuses: {said}")
        if error.status_code in RETRIED_STATUSES or error.status_code >= 500:
            return _TransientError(said, _retry_after(error.response.headers))
        if code in FILTER_CODES:
            return FilteredError(f"the endpoint does not take the request: {said}")
        if not self.settings.isolated and not self.spend.requests:
            return EndpointError(f"{self._client.base_url} takes no request: {said}")
        too_long = code == "context_length_exceeded" or _TOO_LONG.search(error.message)
        return (ContextError if too_long else RequestError)(f"the endpoint does not take the request: {said}")

    def _bound(self, response: Any) -> None:
        """Bounds the size of a response's body, and the time in which it comes; called before it is read."""
        if response.headers.get("content-encoding", "identity") != "identity":  # it could grow without bounds
            raise _TransientError("its answer is compressed, though that was not asked for")
        response.stream = _bounded(response.stream, self.settings.timeout)

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise self._stop_error


def _bounded(stream: Any, seconds: float) -> Any:
    """The stream of a body, which fails where the body is longer than `MOST_BYTES` or comes too slowly."""

    class Bounded(type(stream)):
        def __init__(self) -> None:
            """What it reads is not its own."""

        def __iter__(self) -> Iterator[bytes]:
            end, size = time.monotonic() + seconds, 0
            for piece in stream:
                size += len(piece)
                if size > MOST_BYTES:
                    raise _TransientError(f"its answer is longer than {MOST_BYTES:,} bytes")
                if time.monotonic() > end:
                    raise _TransientError(f"its answer takes more than {seconds:g} seconds")
                yield piece

        def close(self) -> None:
            stream.close()

    return Bounded()


class RateLimit:
    """Lets at most `per_minute` requests start in any minute; None for no limit. The first ones do not wait."""

    def __init__(self, per_minute: float | None):
        self._most = None if per_minute is None else max(int(per_minute), 1)
        self._window = 60.0 if per_minute is None or per_minute >= 1 else 60.0 / per_minute
        self._starts: collections.deque[float] = collections.deque()
        self._lock = threading.Lock()

    def wait(self, pause: Callable[[float], object] = time.sleep) -> None:
        """Returns when one more request may start; `pause` waits for a number of seconds."""
        if self._most is None:
            return
        while True:
            with self._lock:
                now = time.monotonic()
                while self._starts and now - self._starts[0] >= self._window:
                    self._starts.popleft()
                if len(self._starts) < self._most:
                    self._starts.append(now)
                    return
                left = self._window - (now - self._starts[0])
            pause(left)


class _TransientError(Exception):
    """A failure that is worth another attempt; `wait` is the seconds that the server asks to wait, if it does."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


def _retry_after(headers: Any) -> float | None:
    """The seconds to wait that the header says, as a number or a date; None without a valid header."""
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return None if math.isnan(seconds) else min(max(seconds, 0.0), 3600.0)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return min(max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0), 3600.0)
    return None
