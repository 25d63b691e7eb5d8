"""Parts that a setting names: one of ours by its name, or one's own as `module:name`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError


def find_part(name: str, known: Mapping[str, Any], kind: str, own: str = "module:function") -> Any:
    """The part of a name.

    Args:
      name: a key of `known`, or a module that can be imported, a colon, and the part's name in it.
      known: our own parts.
      kind: what a part is, for the message: "scorer".
      own: the form of one's own, for the message.

    Raises:
      UserError: there is no such part, or its module cannot be imported.
    """
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"unknown {kind} {name!r}; known: {', '.join(known)}, or {own} of your own")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{kind} {name!r} cannot be imported: {error}") from None
