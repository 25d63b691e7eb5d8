"""A client for a model behind an OpenAI-compatible endpoint, with retries, limits and a cache on disk.

Transient failures (429, 5xx, time-outs, lost connections, malformed answers) are retried after the time that
`Retry-After` says, or after a doubling time with jitter. A failure that persists stops the run, which can be started
again later: answers are cached by a hash of the request and cost nothing then. Refusals, truncated and empty answers
are answers too, and are cached.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import email.utils
import hashlib
import json
import math
import os
import pathlib
import random
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from data_pipeline.synthesis.captioner import CaptionError, Spend
from pixel_reasoner_jax.errors import UserError

RETRIED_STATUSES = (408, 409, 425, 429)
"""HTTP statuses below 500 that are retried."""

FATAL_STATUSES = (401, 402, 403, 404)
"""HTTP statuses that any other request would get too: they stop the run."""

FILTER_CODES = ("content_filter", "content_policy_violation")
"""Error codes about the content of one request. Other errors stop the run, if no request has succeeded before."""

LONGEST_WAIT = 60.0
"""The most seconds between two attempts, unless the server asks for more."""


class EndpointError(UserError):
    """The endpoint cannot be used, now or at all. The run stops; started again, it goes on where it was."""


@dataclasses.dataclass(frozen=True)
class EndpointSettings:
    """The settings of an `Endpoint`.

    Attributes:
      model: its name.
      base_url: of the server; None for OPENAI_BASE_URL, or if that is not set, OpenAI's own. The key is OPENAI_API_KEY.
      temperature, max_tokens: of an answer.
      timeout: seconds that an attempt may take.
      attempts: for one request, before the run stops.
      requests_per_minute: the most that are sent; None for no limit.
      concurrency: the most requests under way at once.
      prompt_price, completion_price: of a million tokens.
      budget: the most that this run may cost; None for no limit.
      cache: the folder of cached answers.

    Raises:
      UserError: a value is out of range.
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

    def __post_init__(self):
        for name in ("max_tokens", "timeout", "attempts", "requests_per_minute", "concurrency"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name.replace('_', ' ')} must be above 0, got {value}")
        for name in ("temperature", "prompt_price", "completion_price", "budget"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name.replace('_', ' ')} must be 0 or more, got {value}")


@dataclasses.dataclass(frozen=True)
class Completion:
    """An answer of the model.

    Attributes:
      text: without surrounding white space.
      problem: why the text cannot be used; None if it can.
      spend: its cost.
    """

    text: str
    problem: str | None
    spend: Spend


class Endpoint:
    """The client; many threads may use it at once.

    Args:
      settings: see `EndpointSettings`.

    Attributes:
      spend: the cost of this run so far.

    Raises:
      EndpointError: the client is not installed, or there is no key where one is needed.
    """

    def __init__(self, settings: EndpointSettings):
        try:
            import openai  # an extra
        except ImportError:
            raise EndpointError(
                'asking a model needs openai, which comes with pip install "pixel-reasoner-jax[synthesis]"'
            ) from None
        base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL")
        key = os.environ.get("OPENAI_API_KEY")
        if not key and not base_url:
            raise EndpointError("set OPENAI_API_KEY to your key, or name a server that needs none with --base-url")
        self.settings, self._openai = settings, openai
        # Its own retries would not be counted, nor end when the run does.
        self._client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=settings.timeout, max_retries=0)
        self._cache = pathlib.Path(settings.cache)
        self._slots = threading.Semaphore(settings.concurrency)
        self._rate = RateLimit(settings.requests_per_minute)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._stop_error = EndpointError("the run is ending")
        self.spend = Spend()

    def close(self) -> None:
        """Ends all waiting, and refuses new requests."""
        self._closed.set()
        self._client.close()

    def complete(self, messages: list[dict[str, Any]], attempt: int = 0) -> Completion:
        """The answer to a conversation, from the cache or the endpoint.

        Args:
          messages: in the endpoint's form, with images as data URLs.
          attempt: another number asks for another answer to the same messages.

        Raises:
          EndpointError: the endpoint cannot be used.
          CaptionError: the endpoint refuses this request, but not others.
        """
        request = {
            "model": self.settings.model,
            "messages": messages,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        key = hashlib.sha256(json.dumps([request, attempt], sort_keys=True).encode()).hexdigest()
        file = self._cache / key[:2] / f"{key}.json"
        reply, paid = _read_cache(file), False
        if reply is None:
            reply, paid = self._reply(request), True
            _write_cache(file, reply)
        spend = self._cost(reply, paid)
        with self._lock:
            self.spend += spend
        return Completion(reply["text"].strip(), _problem(reply), spend)

    def _cost(self, reply: dict[str, Any], paid: bool) -> Spend:
        prompt, completion = reply["prompt_tokens"], reply["completion_tokens"]
        cost = (prompt * self.settings.prompt_price + completion * self.settings.completion_price) / 1e6
        return Spend(1, int(paid), prompt, completion, cost, cost if paid else 0.0)

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """A reply to one request. If it fails, the run ends: all threads raise the same error."""
        try:
            return self._retry(request)
        except EndpointError as error:
            with self._lock:
                if not self._closed.is_set():
                    self._stop_error = error
                    self._closed.set()
            raise self._stop_error from None

    def _retry(self, request: dict[str, Any]) -> dict[str, Any]:
        """A reply to one request, after at most `attempts` attempts."""
        if self._closed.is_set():
            raise self._stop_error
        budget = self.settings.budget
        if budget is not None and self.spend.paid_cost >= budget:
            raise EndpointError(f"{self.spend.paid_cost:.2f} were spent, the budget of {budget:g} is used up")
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
        raise EndpointError(
            f"{self._client.base_url} did not answer in {self.settings.attempts} attempts; the last one: {problem}."
            " What was answered before is kept: start the same command again"
        )

    def _attempt(self, request: dict[str, Any]) -> dict[str, Any]:
        """One attempt; raises `_TransientError` if another one may succeed."""
        openai = self._openai
        try:
            raw = self._client.chat.completions.with_raw_response.create(**request)
        except openai.APIStatusError as error:
            said = f"status {error.status_code}, {_clip(error.message)}"
            if error.status_code in FATAL_STATUSES or getattr(error, "code", None) == "insufficient_quota":
                raise EndpointError(f"{self._client.base_url} refuses: {said}") from None
            if error.status_code in RETRIED_STATUSES or error.status_code >= 500:
                raise _TransientError(said, _retry_after(error.response.headers)) from None
            if getattr(error, "code", None) not in FILTER_CODES and not self.spend.requests:
                raise EndpointError(f"{self._client.base_url} takes no request: {said}") from None
            raise CaptionError(f"the endpoint does not take the request: {said}") from None
        except openai.APIConnectionError as error:  # a time-out is one
            raise _TransientError(f"{type(error).__name__} ({error.__cause__ or error})") from None
        try:
            return _read(json.loads(raw.http_response.content))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise _TransientError(f"its answer is not a chat completion ({type(error).__name__}: {error})") from None

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise self._stop_error


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


MOST_TOKENS = 10**8  # of a request


def _read(body: dict[str, Any]) -> dict[str, Any]:
    """The parts of a chat completion that are used; any exception means that the object is none."""
    choice = body["choices"][0]
    message = choice["message"]
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        raise TypeError("its content is not a text")
    usage = body.get("usage") or {}
    return {
        "text": text or "",
        "refusal": str(message.get("refusal") or ""),
        "finish": str(choice.get("finish_reason") or "stop"),
        "prompt_tokens": _tokens(usage.get("prompt_tokens") or 0),
        "completion_tokens": _tokens(usage.get("completion_tokens") or 0),
    }


def _tokens(count: Any) -> int:
    """A number of tokens as the endpoint says it: what is no such number would cost anything, or nothing."""
    if not isinstance(count, int | float) or not 0 <= count <= MOST_TOKENS:
        raise ValueError(f"its usage counts {str(count)[:20]} tokens")
    return int(count)


def _problem(reply: dict[str, Any]) -> str | None:
    if reply["refusal"]:
        return f"the model refuses: {_clip(reply['refusal'])}"
    if reply["finish"] == "content_filter":
        return "the endpoint's filter withholds the answer"
    if reply["finish"] == "length":
        return "the answer was cut at the limit of tokens"
    if reply["finish"] != "stop":
        return f"the answer ended for the reason {_clip(reply['finish'])!r}"
    return None if reply["text"].strip() else "the answer is empty"


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


def _read_cache(file: pathlib.Path) -> dict[str, Any] | None:
    """A reply from the cache; None if it is not there or cannot be read."""
    try:
        reply = json.loads(file.read_text(encoding="utf-8"))
        names = {"text": str, "refusal": str, "finish": str, "prompt_tokens": int, "completion_tokens": int}
        return reply if all(isinstance(reply[name], kind) for name, kind in names.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_cache(file: pathlib.Path, reply: dict[str, Any]) -> None:
    """Writes a reply to the cache, atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(reply, out)
    os.replace(temporary, file)


def _clip(text: Any, length: int = 200) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"{text[:length]} …"
