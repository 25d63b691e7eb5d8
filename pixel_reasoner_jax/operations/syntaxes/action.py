"""Calls in plain words: `<action>choose frames between 3 and 9</action>`."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.base import Operation
from pixel_reasoner_jax.operations.calls import MAX_CHARACTERS, Call, OperationError
from pixel_reasoner_jax.operations.syntaxes.base import Operations, Syntax, between, read_value

ANSWER = "output answer"


class ActionTags(Syntax):
    """Plain words in `<action>` tags, which are the phrase of an operation (`Operation.phrase`) with its values.

    The first tag that is closed ends the turn; "output answer: ..." in it is no call. So does FrameThinker write (read
    in its code).
    """

    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        body = between(text, "<action>", "</action>")
        if body is None:
            return None
        if isinstance(body, OperationError):
            return OperationError(f"{body}; {self.form(operations)}")
        body = body.strip()
        if body.startswith(ANSWER):
            return None
        if len(body) <= MAX_CHARACTERS:
            for operation in operations:
                values = match_phrase(operation.phrase, body)
                if values is not None:
                    return Call(operation.name, values)
        return OperationError(
            f"the function call could not be read (it is none of the actions); {self.form(operations)}"
        )

    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in arguments.items()}
        return f"<action>{operation.phrase.format(**texts)}</action>"

    def form(self, operations: Operations) -> str:
        silent = [operation.name for operation in operations if not operation.phrase]
        if silent:
            raise UserError(f"operation {silent[0]} has no phrase, so that it cannot be called in <action> tags")
        for operation in operations:
            _check_phrase(operation)
        phrases = [operation.phrase.replace("{", "").replace("}", "") for operation in operations]
        return f"a call is written within <action></action> tags, as one of: {'; '.join(phrases)}"

    def stop_strings(self, operations: Operations) -> tuple[str, ...]:
        return ("</action>",)


def _check_phrase(operation: Operation) -> None:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(operation.phrase)]
    except ValueError:
        fields = [""]
    if not all(field is None or field.isidentifier() for field in fields):
        raise UserError(
            f"operation {operation.name} has the phrase {operation.phrase!r}: each value in it must be the name of an"
            " argument in braces, such as {number}"
        )


def match_phrase(phrase: str, text: str) -> dict[str, Any] | None:
    """The values that a text has in the places of a phrase's names; None if it is not the phrase.

    Values are what is before the next words of the phrase, in JSON, or else texts.
    """
    values: dict[str, str] = {}
    name, place = None, 0
    if not phrase:
        return None
    for words, field, _, _ in string.Formatter().parse(phrase):
        start = text.find(words, place) if name is not None and words else place
        if name is not None:
            start = len(text) if not words else start
            if start < 0:
                return None
            values[name] = text[place:start]
        if not text.startswith(words, start):
            return None
        name, place = field, start + len(words)
    if name is not None:
        values[name] = text[place:]
    elif place != len(text):
        return None
    return {name: _value(value.strip()) for name, value in values.items()}


def _value(text: str) -> Any:
    try:
        return read_value(text)
    except (ValueError, RecursionError):
        return text.encode("utf-8", "replace").decode()
