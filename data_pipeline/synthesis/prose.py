"""What a text must not hold before it may stand in a trajectory, whoever wrote it: a model, or a data set.

The renderer never turns text into special tokens, but `<tool_call>` is an ordinary token that asks for an operation
wherever an assistant writes it, and a second `\\boxed{}` would be another answer.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 4000
"""Characters of a passage, a question or an answer."""

_CONTROL_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>|</?\s?(?:tool_call|tools|tool_response|answer|think)\s?>|\\boxed")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_REFUSAL = re.compile(
    r"(?:i[’']?m sorry|sorry|i apologi[sz]e|unfortunately|as an ai)\b.{0,60}\b(?:can(?:no|[’'])?t|unable|not able)\b"
    r"|i (?:can(?:no|[’'])?t|am unable to|am not able to) (?:assist|help|comply)",
    re.IGNORECASE | re.DOTALL,
)


def find_flaw(text: str) -> str | None:
    """Why a text may not stand in a trajectory; None where it may."""
    if found := _CONTROL_TOKEN.search(text):
        return f"it holds {found[0]!r}, which means something of its own"
    if found := _UNPRINTABLE.search(text):
        return f"it holds the character {found[0]!r}"
    if len(text) > MAX_CHARACTERS:
        return f"it has {len(text)} characters, more than {MAX_CHARACTERS}"
    return None


def is_refusal(text: str) -> bool:
    """Whether a model says, in place of what was asked for, that it will not."""
    return _REFUSAL.match(text.strip()) is not None
