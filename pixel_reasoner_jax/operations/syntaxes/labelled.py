"""Calls with the name and the arguments apart: after "Action:", or in a turn that is a JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.operations.base import Operation
from pixel_reasoner_jax.operations.calls import Call, OperationError, as_call, read_json
from pixel_reasoner_jax.operations.syntaxes.base import Operations, Syntax, alone, by_name, given, unfenced, unreadable

LABEL = "Action:"
ANSWER = "answer"
TERMINATE = "Terminate"


class LabelledJson(Syntax):
    """`Action: NAME` on a line, and then JSON in a fence of code, which is the arguments or the first of them.

    NAME may be an alias, such as "Object Mapper"; "Answer" is no call. So does ViLaSR write (read in its code).
    """

    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        start = text.rfind(LABEL)
        if start < 0:
            return None
        line, _, body = text[start + len(LABEL) :].partition("\n")
        name = line.strip()
        if name.lower().startswith(ANSWER):
            return None
        try:
            value = read_json(unfenced(body))
        except (ValueError, RecursionError) as error:
            return unreadable(error, self.form(operations))
        known = by_name(operations)
        return Call(name, given(known[name], value) if name in known else {})

    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        value = alone(operation, arguments)
        value = dict(arguments) if value is None else value
        return f"{LABEL} {operation.name}\n```json\n{json.dumps(value, ensure_ascii=False)}\n```"

    def form(self, operations: Operations) -> str:
        return f"a call is a line {LABEL} and the function's name, and then its arguments as ```json\n...\n```"


class TurnJson(Syntax):
    """A turn that is a JSON object of `thought` and `actions`, a list of one `{"name": ..., "arguments": {...}}`.

    No action, and the action "Terminate", are no call; nor is a turn that is no object. So do V-ToolRL's models write
    (OpenThinkIMG, read in its code).
    """

    most = 65_536  # characters of a turn, its thoughts included

    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        body = unfenced(text)
        if not body.startswith("{"):
            return None
        try:
            turn = read_json(body, self.most)
            actions = turn.get("actions", [])
            if not isinstance(actions, list) or len(actions) > 1:
                raise ValueError('"actions" is not a list of one')
            if not actions:
                return None
            call = as_call(actions[0])
        except (ValueError, RecursionError) as error:
            return unreadable(error, self.form(operations))
        return None if call.name == TERMINATE else call

    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        action = {"name": operation.name, "arguments": dict(arguments)}
        return json.dumps({"thought": "", "actions": [action]}, ensure_ascii=False)

    def form(self, operations: Operations) -> str:
        action = '{"name": <function-name>, "arguments": <args-json-object>}'
        return (
            f'a turn is a json object {{"thought": ..., "actions": [{action}]}}; the last action is'
            f' {{"name": "{TERMINATE}", "arguments": {{"ans": ...}}}}'
        )
