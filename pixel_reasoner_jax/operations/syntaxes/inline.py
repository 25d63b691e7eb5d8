"""Boxes and other arguments at the end of a turn, without tags: `... {"bbox_2d": [10, 20, 300, 400]}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.operations.base import Operation
from pixel_reasoner_jax.operations.calls import MAX_CHARACTERS, Call, OperationError, read_json
from pixel_reasoner_jax.operations.syntaxes.base import Operations, Syntax, check_arguments, given, unreadable

_PAIRS = {"}": "{", "]": "["}


class InlineJson(Syntax):
    """A turn that ends in a JSON object of arguments, or in a list of numbers, calls the operation that takes them.

    That is the first operation that has all of the object's arguments, or the first of all. An object may be in a
    fence of code. Braces that do not begin as an object does, such as those of \\boxed{}, are no call. So do VLM-R3
    (by notes on its paper) and VisRL (read in its code) write a box.
    """

    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        body = last_bracket(text.rstrip().removesuffix("```").rstrip())
        if body is None or not re.match(r'\{\s*"|\[\s*-?[0-9.]', body) or not operations:
            return None
        try:
            value = read_json(body)
        except (ValueError, RecursionError) as error:
            return unreadable(error, self.form(operations))
        if isinstance(value, list) and len(value) < 2:
            return None
        operation = next((one for one in operations if isinstance(value, dict) and _takes(one, value)), operations[0])
        return Call(operation.name, given(operation, value))

    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        return json.dumps(dict(arguments), ensure_ascii=False)

    def form(self, operations: Operations) -> str:
        check_arguments(operations, "inline")
        names = operations[0].arguments if operations else ()
        shape = ", ".join(f'"{name}": ...' for name in names)
        return f"a call is a json object of the arguments at the end of the turn: {{{shape}}}"


def last_bracket(text: str) -> str | None:
    """The text of the brackets that end a text, from where they open; None if there are none of reasonable length."""
    if not text.endswith(tuple(_PAIRS)):
        return None
    closing, depth = text[-1], 0
    for place in range(len(text) - 1, max(-1, len(text) - 1 - MAX_CHARACTERS), -1):
        depth += (text[place] == closing) - (text[place] == _PAIRS[closing])
        if not depth:
            return text[place:]
    return None


def _takes(operation: Operation, arguments: Mapping[str, Any]) -> bool:
    names = {operation.argument_aliases.get(name, name) for name in arguments}
    return bool(names) and names <= set(operation.arguments)
