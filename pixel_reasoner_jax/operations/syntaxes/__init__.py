"""Syntaxes of calls: how a model writes that it calls an operation, and how the system message tells it so."""

from __future__ import annotations

from collections.abc import Callable

from pixel_reasoner_jax.named_parts import make_part
from pixel_reasoner_jax.operations.syntaxes.action import ActionTags
from pixel_reasoner_jax.operations.syntaxes.assignment import Assignments
from pixel_reasoner_jax.operations.syntaxes.base import Syntax
from pixel_reasoner_jax.operations.syntaxes.inline import InlineJson
from pixel_reasoner_jax.operations.syntaxes.labelled import LabelledJson, TurnJson
from pixel_reasoner_jax.operations.syntaxes.tags import CodeTags, NameTags
from pixel_reasoner_jax.operations.syntaxes.tool_call import ToolCallTags

SYNTAXES: dict[str, Callable[[], Syntax]] = {
    "tool_call": ToolCallTags,
    "tags": NameTags,
    "action": ActionTags,
    "code": CodeTags,
    "inline": InlineJson,
    "labelled": LabelledJson,
    "json": TurnJson,
    "assignment": Assignments,
}
"""Our own, by the names that `config.operations.syntax` has; their docstrings say which methods write so."""


def make_syntax(name: str) -> Syntax:
    """A syntax by its name, or one's own as `module:name` of a class of `Syntax`.

    Raises:
      UserError: there is none of this name.
    """
    return make_part(name, SYNTAXES, "syntax of calls", Syntax, "operations.Syntax")
