"""What an endpoint answers: read from an untrusted body, and kept on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
import threading
from typing import Any

MOST_TOKENS = 10**8  # of a request

CLIPPED = 200  # characters of what a server says in a message

INTERRUPTED = ("abort", "aborted", "cancelled", "error", "insufficient_system_resource")
"""Reasons for which servers end an answer that is not one: it is asked for again."""

CUT = ("length", "max_tokens")
"""Reasons of an answer that met a limit of tokens."""


@dataclasses.dataclass(frozen=True)
class Spend:
    """The cost of a model's answers.

    Attributes:
      requests: answers that were used, those from the cache included.
      paid: how many of them were requested by this run, and so paid for.
      prompt_tokens, completion_tokens: of all answers.
      cost: of all answers, in the currency of the prices.
      paid_cost: of the paid ones.
    """

    requests: int = 0
    paid: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    paid_cost: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


class Account:
    """What one run has spent at all of its endpoints, which are held to one budget; many threads may use it at once."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._lock = threading.Lock()

    def add(self, cost: float) -> None:
        with self._lock:
            self.spent += cost


@dataclasses.dataclass(frozen=True)
class Completion:
    """An answer of the model.

    Attributes:
      text: as the model wrote it; "" if it wrote none.
      calls: (name, arguments) of the calls that the server has read from what the model wrote; the arguments are JSON,
        as the server says it and not checked.
      refusal: what the model says in place of an answer; "" if it answers.
      finish: why it ended, as the server says it.
      stopped_by: the stop string that ended it, which the text lacks, where the server says so; else "".
      prompt_tokens, completion_tokens: as the server counts them; 0 where it does not.
      spend: its cost.
    """

    text: str
    calls: tuple[tuple[str, str], ...] = ()
    refusal: str = ""
    finish: str = "stop"
    stopped_by: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    spend: Spend = Spend()

    @property
    def problem(self) -> str | None:
        """Why the text is no whole answer; None if it is one."""
        if self.refusal:
            return f"the model refuses: {clip(self.refusal)}"
        if self.finish == "content_filter":
            return "the endpoint's filter withholds the answer"
        if self.finish in CUT:
            return "the answer was cut at the limit of tokens"
        if self.finish != "stop":
            return f"the answer ended for the reason {clip(self.finish)!r}"
        return None if self.text.strip() else "the answer is empty"


def read_completion(body: Any) -> Completion:
    """The completion that a server's JSON holds.

    Raises:
      ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError: it holds none.
    """
    choice = body["choices"][0]
    message = choice["message"]
    usage = body.get("usage") or {}
    finish = _text(choice.get("finish_reason")) or "stop"
    if finish in INTERRUPTED:
        raise ValueError(f"its answer was interrupted: {clip(finish)}")
    stopped_by = choice.get("stop_reason")
    return Completion(
        text=_verbatim(message) or _content(message.get("content")),
        calls=tuple(_call(call["function"]) for call in message.get("tool_calls") or ()),
        refusal=_text(message.get("refusal")),
        finish=finish,
        stopped_by=_text(stopped_by) if isinstance(stopped_by, str) else "",
        prompt_tokens=_tokens(usage.get("prompt_tokens") or 0),
        completion_tokens=_tokens(usage.get("completion_tokens") or 0),
    )


def _text(value: Any) -> str:
    """A text, "" for none. It may hold half a surrogate pair, which cannot be sent or written to a file."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"a text is a {type(value).__name__}")
    return value


def _verbatim(message: Any) -> str:
    """The turn to the letter, its call in it, which a server of ours tells beside the calls that it has read."""
    own = message.get("pixel_reasoner") if message.get("tool_calls") else None
    return _text(own.get("text")) if isinstance(own, dict) else ""


def _content(content: Any) -> str:
    """The text of a message, which some servers give in parts."""
    if not isinstance(content, list):
        return _text(content)
    return "".join(_text(part["text"]) for part in content if part["type"] == "text")


def _call(function: Any) -> tuple[str, str]:
    """The name and the arguments of a call; some servers give arguments as an object."""
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {})
    return _text(function["name"]), _text(arguments)


def _tokens(count: Any) -> int:
    """A number of tokens as the endpoint says it: what is no such number would cost anything, or nothing."""
    if not isinstance(count, int | float) or not 0 <= count <= MOST_TOKENS:
        raise ValueError(f"its usage counts {str(count)[:20]} tokens")
    return int(count)


def read_cache(file: pathlib.Path) -> Completion | None:
    """A completion from the cache; None if it is not there or cannot be read."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        for name, kind in {"text": str, "refusal": str, "finish": str, "stopped_by": str, "calls": list}.items():
            if not isinstance(kept.get(name, kind()), kind):
                return None
        kept["calls"] = tuple((_text(name), _text(arguments)) for name, arguments in kept.get("calls", []))
        counts = {name: _tokens(kept[name]) for name in ("prompt_tokens", "completion_tokens")}
        return Completion(**{**kept, "text": kept["text"], **counts})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_cache(file: pathlib.Path, completion: Completion) -> None:
    """Writes a completion to the cache, atomically."""
    kept = {field.name: getattr(completion, field.name) for field in dataclasses.fields(completion)}
    del kept["spend"]
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(kept, out)
    os.replace(temporary, file)


def clip(text: Any, length: int = CLIPPED) -> str:
    """A text in one line, cut for a message."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"{text[:length]} …"
