"""Calls in tags of their own: `<bbox>[...]</bbox>`, `<grounding>{...}</grounding>`, `<code>swap(1, 2)</code>`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.operations.base import Operation
from pixel_reasoner_jax.operations.calls import Call, OperationError, read_json
from pixel_reasoner_jax.operations.syntaxes.base import (
    Operations,
    Syntax,
    alone,
    between,
    by_name,
    given,
    read_value,
    unreadable,
)


class NameTags(Syntax):
    """Tags with the name of an operation, or an alias of it: `<zoom_image>{"bbox_2d": [...], ...}</zoom_image>`.

    Between them is a JSON object of arguments, or one value, or a text, which is the first argument. The first tag that
    is closed ends the turn. So do Mini-o3 (`<grounding>`, with an object) and VRAG-RL (`<bbox>`, with a list, and
    `<search>`, with a text) write; read in their code, or code that follows it.
    """

    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        known = by_name(operations)
        closed = {name: place for name in known if (place := text.find(f"</{name}>")) >= 0}
        names = sorted(closed, key=closed.__getitem__) or list(known)
        for name in names:
            body = between(text, f"<{name}>", f"</{name}>")
            if body is None:
                continue
            if isinstance(body, OperationError):
                return OperationError(f"{body}; {self.form(operations)}")
            try:
                return Call(name, given(known[name], read_value(body)))
            except (ValueError, RecursionError) as error:
                return unreadable(error, self.form(operations))
        return None

    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        value = alone(operation, arguments)
        value = dict(arguments) if value is None or isinstance(value, str) else value
        return f"<{operation.name}>{json.dumps(value, ensure_ascii=False)}</{operation.name}>"

    def form(self, operations: Operations) -> str:
        name = operations[0].name if operations else "NAME"
        return f"a call is <{name}>{{...}}</{name}>: a json object of the arguments within tags of the function's name"

    def stop_strings(self, operations: Operations) -> tuple[str, ...]:
        return tuple(f"</{name}>" for name in by_name(operations))


class CodeTags(Syntax):
    """A call as in a program, in `<code>` tags, with values in JSON and in order: `<code>swap(1, 2)</code>`.

    AGILE writes Python in these tags (read in its code), which a stranger's model may not run here: this is what it
    comes to. A name that the result is given, as in `image = swap(1, 2)`, is read over.
    """

    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        body = between(text, "<code>", "</code>")
        if body is None:
            return None
        if isinstance(body, OperationError):
            return OperationError(f"{body}; {self.form(operations)}")
        found = re.match(r"\s*(?:[A-Za-z_]\w{0,63}\s{0,9}=\s{0,9})?([A-Za-z_]\w{0,63})\(", body)
        if not found or not body.rstrip().endswith(")"):
            return OperationError(f"the function call could not be read (it is not NAME(...)); {self.form(operations)}")
        name, values = found[1], body.rstrip()[found.end() : -1]
        known = by_name(operations)
        if name not in known:
            return Call(name, {})
        try:
            read = read_json(f"[{values}]")
        except (ValueError, RecursionError) as error:
            return unreadable(error, self.form(operations))
        names = known[name].arguments
        if len(read) > len(names):
            return OperationError(f"{name} must be given {len(names)} values, not {len(read)}: {', '.join(names)}")
        return Call(name, dict(zip(names, read, strict=False)))

    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        values = [json.dumps(arguments[name]) for name in operation.arguments if name in arguments]
        return f"<code>{operation.name}({', '.join(values)})</code>"

    def form(self, operations: Operations) -> str:
        shapes = [f"{operation.name}({', '.join(operation.arguments)})" for operation in operations]
        return f"a call is written within <code></code> tags, as one of {', '.join(shapes)}"

    def stop_strings(self, operations: Operations) -> tuple[str, ...]:
        return ("</code>",)
