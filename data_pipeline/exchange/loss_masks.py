"""Which words of a conversation that carries no flags the loss covers.

Rows of the released data do not say which operations are mistakes. Their templates put every mistake before the right
operation, so that of several calls all but the last one are mistaken; this is what `last-call` goes by. A call that
failed is mistaken too. As in our own synthesis, the words around a mistaken call are trained, the call is not.
"""

from __future__ import annotations

import copy
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.calls import OPENING
from pixel_reasoner_jax.trajectory import OperationRecord

Message = dict[str, Any]

LOSS_MASK_RULES = {
    "last-call": "all that the assistant wrote, but of its calls the last one alone, if it succeeded",
    "last-two-turns": "the last two turns of the assistant, as the released training does",
    "all": "all that the assistant wrote",
}


def with_loss_mask(messages: list[Message], operations: list[OperationRecord], rule: str) -> list[Message]:
    """The messages with a `train` flag on every text of the assistant.

    Args:
      messages: content as lists of items. Where a text has a flag already, all flags stay as they are.
      operations: the calls that were executed, in order.
      rule: one of `LOSS_MASK_RULES`.
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
    """An item, in two where its call is not trained as its words are."""
    if item["type"] != "text":
        return [item]
    start = item["text"].find(OPENING)
    if start < 0 or text == call:
        return [{**item, "train": text}]
    parts = ((item["text"][:start], text), (item["text"][start:], call))
    return [{**item, "text": words, "train": train} for words, train in parts if words]
