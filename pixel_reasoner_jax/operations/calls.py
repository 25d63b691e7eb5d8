"""The text form of operations: signatures in the system message, calls in assistant turns, errors in observations."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

OPENING, CLOSING = "<tool_call>", "</tool_call>"

MAX_CHARACTERS = 8192
MAX_DEPTH = 8
MAX_DIGITS = 20

_EXPECTED = f'a call is {OPENING}{{"name": ..., "arguments": {{...}}}}{CLOSING}'


class OperationError(Exception):
    """A call that cannot be read or executed; its message is written for the model."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of an operation: its name and arguments, as parsed from JSON and not checked further."""

    name: str
    arguments: dict[str, Any]


def parse_call(text: str, *, last_wins: bool = False) -> Call | None | OperationError:
    """Reads the call of an operation in an assistant's turn.

    A turn calls an operation if it ends in `<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>`, apart from
    white space. A turn that goes on after the closing tag calls nothing. An opening tag that is never closed, two calls
    in a turn, and a call that is not such a JSON object are errors. The JSON must be standard, where Python accepts NaN
    and Infinity, repeated keys and half surrogates. Numbers too large for a float, integers of more than 20 digits,
    more than 8 levels, and more than 8192 characters are errors too.

    Args:
      text: the turn, without `<|im_end|>`; it may be any string.
      last_wins: take the last of several calls, as the released code does.

    Returns:
      The call; None if the turn calls nothing; or an `OperationError` to show to the model. Nothing is raised.
    """
    text = text.rstrip()
    opening, closing = text.rfind(OPENING), text.rfind(CLOSING)
    if opening > closing:
        return OperationError(f"{OPENING} was not closed with {CLOSING}; {_EXPECTED}")
    if not text.endswith(CLOSING):
        return None
    if opening < 0:
        return OperationError(f"{CLOSING} without {OPENING} before it; {_EXPECTED}")
    if not last_wins and text.count(OPENING) > 1:
        return OperationError("more than one function was called in a turn; call one and wait for its result")
    body = text[opening + len(OPENING) : closing]
    try:
        return as_call(read_json(body))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        return OperationError(f"the function call could not be read ({reason}); {_EXPECTED}")


def tools_section(signatures: Sequence[dict[str, Any]]) -> str:
    """The tools section, after "You are a helpful assistant." in the system message: Qwen's (Hermes) form."""
    lines = "\n".join(json.dumps(signature, ensure_ascii=False) for signature in signatures)
    return (
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{lines}\n</tools>\n\n"
        f"For each function call, return a json object with function name and arguments within {OPENING}{CLOSING} XML"
        f' tags:\n{OPENING}\n{{"name": <function-name>, "arguments": <args-json-object>}}\n{CLOSING}'
    )


def error_text(message: str) -> str:
    """The observation that reports an error."""
    return f"\nExecution error:\n{message}\n"


def read_json(body: str, most: int = MAX_CHARACTERS) -> Any:
    """Reads JSON that a model wrote, within the bounds of `parse_call` and at most `most` characters.

    Raises:
      ValueError, RecursionError: it is no such JSON.
    """
    if len(body) > most:
        raise ValueError(f"{len(body)} characters, at most {most} are read")
    value = json.loads(
        body,
        object_pairs_hook=_unique_keys,
        parse_constant=_refuse_constant,
        parse_int=_bounded_integer,
        parse_float=_finite_number,
    )
    _check_depth(value)
    _check_text(value)
    return value


def as_call(value: Any) -> Call:
    """The call that a JSON value says by its keys "name" and "arguments".

    Raises:
      ValueError: it says none.
    """
    if not isinstance(value, dict):
        raise ValueError(f"it is a JSON {json_type(value)}, not an object")
    if set(value) != {"name", "arguments"}:
        raise ValueError('its keys must be "name" and "arguments"')
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str):
        raise ValueError(f'"name" is a JSON {json_type(name)}, not a string')
    if not isinstance(arguments, dict):
        raise ValueError(f'"arguments" is a JSON {json_type(arguments)}, not an object')
    return Call(name, arguments)


def json_type(value: Any) -> str:
    """JSON's name for the type of a parsed value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bounded_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite_number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number too large")
    return number


def _check_depth(value: Any) -> None:
    """Checks the depth level by level, without recursion; code that handles the arguments later may then recurse."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    raise ValueError("nested too deeply")


def _check_text(value: Any) -> None:
    """Refuses strings with half a surrogate pair, which can be neither written to a file nor tokenized."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a string holds half a surrogate pair") from None
