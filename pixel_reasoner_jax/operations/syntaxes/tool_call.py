"""JSON in `<tool_call>` tags: Qwen's form, and our default."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.operations.base import Operation
from pixel_reasoner_jax.operations.calls import CLOSING, OPENING, Call, OperationError, parse_call, tools_section
from pixel_reasoner_jax.operations.syntaxes.base import Operations, Syntax


@dataclasses.dataclass(frozen=True)
class ToolCallTags(Syntax):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>` at the end of a turn; see `parse_call`.

    So do Pixel Reasoner, DeepEyes, Chain-of-Focus and ViGoRL write (read in their code).

    Attributes:
      last_wins: if a turn has several calls, take the last, as the released code does; otherwise that is an error.
    """

    last_wins: bool = False

    def parse(self, text: str, operations: Operations) -> Call | None | OperationError:
        return parse_call(text, last_wins=self.last_wins)

    def write(self, operation: Operation, arguments: Mapping[str, Any]) -> str:
        call = json.dumps({"name": operation.name, "arguments": dict(arguments)}, ensure_ascii=False)
        return f"{OPENING}\n{call}\n{CLOSING}"

    def form(self, operations: Operations) -> str:
        return f"Return a json object with function name and arguments within {OPENING}{CLOSING} XML tags."

    def tools_section(self, signatures: Sequence[Mapping[str, Any]], operations: Operations) -> str:
        return tools_section(signatures)
