"""What text in a trajectory must not contain, whether a model or a data set wrote it.

The renderer never turns text into special tokens. But `<tool_call>` is an ordinary token, which asks for an operation
wherever an assistant writes it, and a second `\\boxed{}` would be a second answer.
"""

from __future__ import annotations

import re

MAX_TEXT_LENGTH = 4000
"""The most characters of a passage, a question or an answer."""

_CONTROL_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>|</?\s?(?:tool_call|tools|tool_response|answer|think)\s?>|\\boxed")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_REFUSAL = re.compile(
    r"(?:i[’']?m sorry|sorry|i apologi[sz]e|unfortunately|as an ai)\b.{0,60}\b(?:can(?:no|[’'])?t|unable|not able)\b"
    r"|i (?:can(?:no|[’'])?t|am unable to|am not able to) (?:assist|help|comply)",
    re.IGNORECASE | re.DOTALL,
)


def find_flaw(text: str) -> str | None:
    """Why a text must not be in a trajectory, in words; None if it may."""
    if found := _CONTROL_TOKEN.search(text):
        return f"it holds {found[0]!r}, which means something of its own"
    if found := _UNPRINTABLE.search(text):
        return f"it holds the character {found[0]!r}"
    if len(text) > MAX_TEXT_LENGTH:
        return f"it has {len(text)} characters, more than {MAX_TEXT_LENGTH}"
    return None


def is_refusal(text: str) -> bool:
    """Whether the text is a model's refusal to answer."""
    return _REFUSAL.match(text.strip()) is not None
