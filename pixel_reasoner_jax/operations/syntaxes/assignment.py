"""Calls with their result on the same line: `FIND_SEGMENT(the man opens the door) = [3, 4]`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.operations.base import Operation
from pixel_reasoner_jax.operations.calls import MAX_CHARACTERS, Call, OperationError, read_json
from pixel_reasoner_jax.operations.syntaxes.base import Operations, Syntax, by_name, check_arguments, unreadable


class Assignments(Syntax):
    """A turn whose last line has `NAME(words) = value`: the words say what is looked for, the value is the argument.

    The value is a JSON list, or one number, which is a list of it. What follows it on the line is part of it; lines
    after it make the turn an answer. So does Video-CoM write (read in its code).
    """

    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        known = by_name(operations)
        line = text.rstrip().rpartition("\n")[2]
        places = {name: _last_place(f"{name}(", line) for name in known}
        name = max(places, key=places.__getitem__, default="")
        if not name or places[name] < 0:
            return None
        words, equals, value = line[places[name] :].rpartition("=")
        if not equals or not words.rstrip().endswith(")"):
            return OperationError(f"the function call could not be read (no value is given); {self.form(operations)}")
        try:
            read = read_json(value.strip(), MAX_CHARACTERS)
        except (ValueError, RecursionError) as error:
            return unreadable(error, self.form(operations))
        operation = known[name]
        first = operation.arguments[0] if operation.arguments else "value"
        return Call(name, {first: read if isinstance(read, list) else [read]})

    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        return f"{operation.name}() = {json.dumps(arguments[operation.arguments[0]])}"

    def form(self, operations: Operations) -> str:
        check_arguments(operations, "assignment")
        shapes = [f"{operation.name}(description) = {operation.arguments[0]}" for operation in operations]
        return f"a call is the last line of a turn, as one of: {'; '.join(shapes)}"


def _last_place(opening: str, line: str) -> int:
    """Where a name with its bracket stands last in a line, not as the end of a longer name; -1 if nowhere."""
    place = line.rfind(opening)
    while place > 0 and (line[place - 1].isalnum() or line[place - 1] == "_"):
        place = line.rfind(opening, 0, place)
    return place
