"""Which texts of an imported conversation the loss covers, when the conversation has no `train` flags.

The released data do not mark deliberate mistakes. Their templates put all mistaken calls before the right one, so the
rule `last-call` takes every call but the last for mistaken, and the last if it failed. As in our own synthesis, the
words around a mistaken call are trained and the call itself is not.
"""

from __future__ import annotations

import copy
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.calls import OPENING
from pixel_reasoner_jax.trajectory import OperationRecord

LOSS_MASK_RULES = ("last-call", "last-two-turns", "all")


def with_loss_mask(
    messages: list[dict[str, Any]], operations: list[OperationRecord], rule: str
) -> list[dict[str, Any]]:
    """The messages with a `train` flag on every text of the assistant.

    Args:
      messages: content as lists of items. If any text has a flag already, the messages are returned as they are.
      operations: the executed calls, in order.
      rule: one of `LOSS_MASK_RULES`.

    Raises:
      UserError: there is no such rule.
    """
    if rule not in LOSS_MASK_RULES:
        raise UserError(f"unknown rule for the mask {rule!r}, expected one of {', '.join(LOSS_MASK_RULES)}")
    messages = copy.copy(messages)
    if any("train" in item for message in messages for item in message["content"]):
        return messages
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    mistaken = {turns[operation.turn] for operation in operations[:-1]}
    mistaken |= {turns[operation.turn] for operation in operations[-1:] if not operation.succeeded}
    for number in turns:
        whole = rule != "last-two-turns" or number in turns[-2:]
        call = whole and not (rule == "last-call" and number in mistaken)
        content = [part for item in messages[number]["content"] for part in _flagged(item, whole, call)]
        messages[number] = {**messages[number], "content": content}
    return messages


def _flagged(item: dict[str, Any], text: bool, call: bool) -> list[dict[str, Any]]:
    """The item with flags; split in two if its words and its call have different ones."""
    if item["type"] != "text":
        return [item]
    start = item["text"].find(OPENING)
    if start < 0 or text == call:
        return [{**item, "train": text}]
    parts = ((item["text"][:start], text), (item["text"][start:], call))
    return [{**item, "text": words, "train": train} for words, train in parts if words]
