"""The interface of a syntax of calls."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.base import Operation
from pixel_reasoner_jax.operations.calls import Call, OperationError, read_json

Operations = Sequence[Operation]


class Syntax(abc.ABC):
    """How calls of operations are written in a turn of the model.

    A syntax names operations and finds values; what these may be, the operations check.
    """

    @abc.abstractmethod
    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        """Reads the call in a turn, in time and memory that grow no faster than the text, whatever that is.

        Args:
          text: the turn, without `<|im_end|>`; it may be any string.
          operations: those that may be called.

        Returns:
          The call; None if the turn calls nothing; or an `OperationError` to show to the model. Nothing is raised.
        """

    @abc.abstractmethod
    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        """The text that `parse` reads as this call."""

    @abc.abstractmethod
    def form(self, operations: Operations) -> str:
        """What the system message says of how to call the operations.

        Raises:
          UserError: one of them cannot be called in this syntax.
        """

    def stop_strings(self, operations: Operations) -> tuple[str, ...]:
        """Texts with which a turn ends, since a call does; none where the model ends its turns itself."""
        return ()

    def tools_section(self, signatures: Sequence[Mapping[str, Any]], operations: Operations) -> str:
        """The text of the system message that describes the operations and the form of calls.

        Args:
          signatures: of the operations that are offered, `Operation.describe`.
          operations: all that may be called.
        """
        lines = "\n".join(json.dumps(signature, ensure_ascii=False) for signature in signatures)
        return (
            "\n\n# Tools\n\nYou may call one function in a turn to assist with the user query, and wait for its"
            " result.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
            f"{lines}\n</tools>\n\n{self.form(operations)}"
        )


def unreadable(reason: Exception, form: str) -> OperationError:
    """The error of a call whose values could not be read; `form` says what would be right."""
    reason = "nested too deeply" if isinstance(reason, RecursionError) else reason
    return OperationError(f"the function call could not be read ({reason}); {form}")


def read_value(body: str, most: int = 8192) -> Any:
    """The JSON value of a text, or the text itself where it does not begin as a list, an object, a number or a string.

    Raises:
      ValueError, RecursionError: it begins so, but is no JSON within the bounds of `read_json`.
    """
    body = body.strip()
    if len(body) <= most and not body.startswith(("{", "[", '"', "-", *"0123456789")):
        body.encode()  # half a surrogate pair is a ValueError too
        return body
    return read_json(body, most)


def given(operation: Operation, value: Any) -> dict[str, Any]:
    """Arguments of a value without names: those of an object, else the value is the first argument."""
    if isinstance(value, dict):
        return value
    return {operation.arguments[0]: value} if operation.arguments else {"value": value}


def check_arguments(operations: Operations, syntax: str) -> None:
    """Checks that operations have arguments, for a syntax in which these make the call.

    Raises:
      UserError: one of them has none.
    """
    if bare := [operation.name for operation in operations if not operation.arguments]:
        raise UserError(
            f"operation {bare[0]} has no `arguments`, so that it cannot be called in the syntax {syntax!r}: name them"
            " in its class, or take another operations.syntax"
        )


def alone(operation: Operation, arguments: Mapping[str, Any]) -> Any:
    """The value that `given` reads as these arguments; None if they have to be named.

    That is so for all but the first argument by itself, and for an object, which would be read as arguments.
    """
    if len(arguments) != 1 or list(arguments) != list(operation.arguments[:1]):
        return None
    [value] = arguments.values()
    return None if isinstance(value, dict) else value


def by_name(operations: Operations) -> dict[str, Operation]:
    """The operations by their names and aliases."""
    return {name: operation for operation in operations for name in (operation.name, *operation.aliases)}


def unfenced(text: str) -> str:
    """The text without a fence of code around it: three backticks, and the word json after the first three."""
    text = text.strip()
    if text.endswith("```"):
        inner = text[:-3]
        start = inner.rfind("```")
        if start >= 0 and not inner[:start].strip():
            return inner[start + 3 :].removeprefix("json").strip()
    return text


def between(text: str, opening: str, closing: str) -> str | None | OperationError:
    """The text in the first pair of tags that is closed; None if there is none, an error if a tag has no other."""
    end = text.find(closing)
    if end < 0:
        return OperationError(f"{opening} was not closed with {closing}") if opening in text else None
    start = text.rfind(opening, 0, end)
    if start < 0:
        return OperationError(f"{closing} without {opening} before it")
    return text[start + len(opening) : end]
