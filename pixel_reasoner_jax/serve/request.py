"""Reads the body of a chat completion: it is a `ChatRequest`, or a refusal that says what is wrong."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import secrets
from collections.abc import Container, Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.operations.calls import CLOSING, OPENING
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.serve.errors import ApiError, refused

EXTRA = "pixel_reasoner"
"""The field with what other servers do not have: of a request, whether frames are sent; of an answer, operations with
their images, and why a response has ended."""

MOST_VALUES = 300_000  # commas and brackets of a body: values that take memory each
MOST_STOPS, STOP_LENGTH = 8, 256
MOST_TOOLS = 64
MOST_NAME = 64  # characters of an unknown field's name that are compared with those there are
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "user"}
"""How the roles of chat completions are told to the model, which knows three; a tool's result is said by the user."""

NEUTRAL = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "top_logprobs": (0, None),
    "logit_bias": ({}, None),
    "min_p": (0, None),
    "functions": ([], None),
    "function_call": ("none", "auto", None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
}
"""What is not supported: the values under which a request means the same without it."""

READ = (
    "model messages n seed temperature top_p top_k max_tokens max_completion_tokens stop logprobs stream stream_options"
    " tools tool_choice"
).split() + [EXTRA]
UNHEEDED = (
    "user metadata store service_tier parallel_tool_calls prompt_cache_key prompt_cache_retention safety_identifier"
    " prediction"
).split()
"""What says nothing about the answer."""


@dataclasses.dataclass(frozen=True)
class RequestLimits:
    """What a request may ask for.

    Attributes:
      body_bytes: of its body.
      images: in all of its messages.
      videos: likewise.
      samples: `n`.
      text: characters of all texts.
    """

    body_bytes: int = 32 * 2**20
    images: int = 16
    videos: int = 1
    samples: int = 8
    text: int = 400_000


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """A request for a chat completion.

    Attributes:
      model: the name of the one that is asked.
      messages: each with a `role` that the model knows and a list of `content`: items of type "text", or of type
        "image" or "video" with the `url` that was sent, and a video perhaps with an `fps`.
      samples, seed, sampling, max_tokens, logprobs: see OpenAI's reference of `n`, …; `max_tokens` None: no limit.
      tools: the signatures of the functions that the client runs; None: the operations run here.
      stream, with_usage: whether the answer is sent as it is written, and whether its last event counts the tokens.
      with_frames: whether the first event of a stream has the frames of the video.
    """

    model: str
    messages: list[dict[str, Any]]
    samples: int = 1
    seed: int = 0
    sampling: SamplingSettings = SamplingSettings()
    max_tokens: int | None = None
    logprobs: bool = False
    tools: list[dict[str, Any]] | None = None
    stream: bool = False
    with_usage: bool = False
    with_frames: bool = False


def read_body(body: bytes, models: Container[str], limits: RequestLimits) -> ChatRequest:
    """Reads a body.

    Args:
      models: the names of those that are served.

    Raises:
      ApiError: it is no request that can be answered.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ApiError(413, f"the body holds more than {MOST_VALUES:,} values")
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else shown(str(error))
        raise refused(f"the body is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise refused("the body must be a JSON object")
    asked = value.get("model")
    if not isinstance(asked, str):
        raise refused("model must be the name of a model, see /v1/models", "model")
    if asked not in models:
        unknown = f"there is no model {shown(asked)}; /v1/models names those there are"
        raise ApiError(404, unknown, "model", "model_not_found")
    for name, neutral in NEUTRAL.items():
        if value.get(name) not in neutral:
            raise refused(f"{name} is not supported", name)
    _check_fields(value, READ, also=(*NEUTRAL, *UNHEEDED))
    tools = _tools(value)
    stream_options = _object(value, "stream_options", ["include_usage", "include_obfuscation"])
    extra = _object(value, EXTRA, ["frames"])
    return ChatRequest(
        model=asked,
        messages=_messages(value.get("messages"), limits),
        samples=_integer(value, "n", 1, limits.samples) or 1,
        seed=_seed(value),
        sampling=_sampling(value),
        max_tokens=_max_tokens(value),
        logprobs=_flag(value, "logprobs"),
        tools=tools,
        stream=_flag(value, "stream"),
        with_usage=_flag(stream_options, "include_usage"),
        with_frames=_flag(extra, "frames"),
    )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_fields(value: Mapping[str, Any], read: Sequence[str], also: Container[str] = (), place: str = "") -> None:
    """Refuses a field with a value that is neither read nor known otherwise: what it asks for would not be done."""
    for name in value:
        if value[name] is not None and name not in read and name not in also:
            close = difflib.get_close_matches(name[:MOST_NAME], read, n=1)
            meant = f"; did you mean {place}{close[0]}?" if close else ""
            raise refused(f"there is no field {shown(place + name)}{meant}")


def _object(value: Mapping[str, Any], name: str, read: Sequence[str]) -> Mapping[str, Any]:
    found = value.get(name) or {}
    if not isinstance(found, dict):
        raise refused(f"{name} must be an object", name)
    _check_fields(found, read, place=f"{name}.")
    return found


def _flag(value: Mapping[str, Any], name: str) -> bool:
    flag = value.get(name)
    if flag not in (None, False, True) or isinstance(flag, int | float) and not isinstance(flag, bool):
        raise refused(f"{name} must be true or false", name)
    return bool(flag)


def _integer(value: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    number = value.get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise refused(f"{name} is {shown(number)}; it must be a whole number from {least:,} to {most:,}", name)
    return number


def _number(value: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    number = value.get(name)
    if number is None:
        return None
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not math.isfinite(number) or not least <= number <= most:
        raise refused(f"{name} is {shown(number)}; it must be a number from {least:g} to {most:g}", name)
    return float(number)


def _seed(value: Mapping[str, Any]) -> int:
    seed = _integer(value, "seed", -(2**63), 2**64 - 1)
    return secrets.randbits(32) if seed is None else seed


def _max_tokens(value: Mapping[str, Any]) -> int | None:
    newer = _integer(value, "max_completion_tokens", 1, 2**31)
    return newer or _integer(value, "max_tokens", 1, 2**31)


def _sampling(value: Mapping[str, Any]) -> SamplingSettings:
    stop = value.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(one, str) for one in stops):
        raise refused(f"stop must be a text, or a list of at most {MOST_STOPS} texts", "stop")
    if not all(0 < len(one) <= STOP_LENGTH for one in stops):
        raise refused(f"a text of stop must have from 1 to {STOP_LENGTH} characters", "stop")
    temperature, top_p = _number(value, "temperature", 0, 2), _number(value, "top_p", 0, 1)
    try:
        return SamplingSettings(
            temperature=1.0 if temperature is None else temperature,
            top_p=1.0 if top_p is None else max(top_p, 1e-6),
            top_k=_integer(value, "top_k", 0, 2**30) or 0,
            stop_strings=tuple(stops),
        )
    except UserError as error:
        raise refused(str(error)) from None


def _tools(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The functions of a request; [] where it has some, and says that none may be called."""
    tools, choice = value.get("tools"), value.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise refused('tool_choice must be "auto" or "none"', "tool_choice")
    if tools is None:
        return [] if choice == "none" else None
    if not isinstance(tools, list) or len(tools) > MOST_TOOLS:
        raise refused(f"tools must be a list of at most {MOST_TOOLS} functions", "tools")
    names = []
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            raise refused(f'tool {number} must be {{"type": "function", "function": {{…}}}}', "tools")
        name = function.get("name")
        if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
            raise refused(f"the name of tool {number} must have from 1 to 64 letters, digits, _, . or -", "tools")
        parameters = function.get("parameters") or {}
        if not isinstance(parameters, dict) or not isinstance(parameters.get("properties") or {}, dict):
            raise refused(f"the parameters of tool {number} must be a JSON schema of an object", "tools")
        names.append(name)
    if len(set(names)) < len(names):
        raise refused("two tools have one name", "tools")
    return [] if choice == "none" else tools


def _messages(messages: Any, limits: RequestLimits) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise refused("messages must be a list of at least one message", "messages")
    read = [_message(message, f"messages[{number}]") for number, message in enumerate(messages)]
    if read[-1]["role"] != "user":
        raise refused("the last message must be one of the user or of a tool", "messages")
    items = [item for message in read for item in message["content"]]
    for kind, most in (("image", limits.images), ("video", limits.videos)):
        count = sum(item["type"] == kind for item in items)
        if count > most:
            raise refused(f"{count} {kind}s are more than the limit of {most}", "messages")
    if {"image", "video"} <= {item["type"] for item in items}:
        raise refused("a conversation has either images or a video, not both", "messages")
    if sum(len(item.get("text", "")) for item in items) > limits.text:
        raise refused(f"the texts have more than {limits.text:,} characters", "messages", "context_length_exceeded")
    return read


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise refused(f"{place} must be an object", "messages")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise refused(f"{place}: role is {shown(role)}; it is one of {', '.join(ROLES)}", "messages")
    content = message.get("content")
    calls = message.get("tool_calls") if role == "assistant" else None
    if content is None and calls:
        content = ""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise refused(f"{place}: content must be a text or a list of parts", "messages")
    items = [_part(part, f"{place}, part {number}") for number, part in enumerate(content)]
    if role not in ("user", "tool") and any(item["type"] != "text" for item in items):
        raise refused(f"{place}: only messages of the user and of tools have images or videos", "messages")
    if calls:
        text = "".join(item["text"] for item in items)
        if not text.rstrip().endswith(CLOSING):
            written = "\n".join(_written(calls, place))
            items.append({"type": "text", "text": f"\n{written}" if text else written})
    return {"role": ROLES[role], "content": items}


def _written(calls: Any, place: str) -> list[str]:
    """The calls of an earlier turn, as a model writes them."""
    if not isinstance(calls, list) or len(calls) > MOST_TOOLS:
        raise refused(f"{place}: tool_calls must be a list", "messages")
    texts = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        name, arguments = (function.get(key) if isinstance(function, dict) else None for key in ("name", "arguments"))
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise refused(f"{place}: a tool call needs a function with name and arguments, both texts", "messages")
        texts.append(f'{OPENING}\n{{"name": {json.dumps(name)}, "arguments": {arguments.strip() or "{}"}}}\n{CLOSING}')
    return texts


def _part(part: Any, place: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind not in ("image_url", "video_url"):
        raise refused(f"{place} must be of type text, image_url or video_url", "messages")
    source = part.get(kind)
    url = source.get("url") if isinstance(source, dict) else source
    if not isinstance(url, str) or not url:
        raise refused(f'{place}: {kind} must be {{"url": …}}, the url a text', "messages")
    item: dict[str, Any] = {"type": kind.removesuffix("_url"), "url": url}
    if kind == "video_url" and isinstance(source, dict):
        fps = _number(source, "fps", 0.001, 1000)
        item |= {} if fps is None else {"fps": fps}
    return item
