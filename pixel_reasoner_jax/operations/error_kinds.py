"""What kind of mistake made a call fail, told from the message that the model was shown."""

from __future__ import annotations

import re

from pixel_reasoner_jax.trajectory import OperationRecord

_OF_ANY_CALL = {
    "limit": r"refused: ",  # a limit of the response
    "slow": r"the operation took more than ",
    "exception": r".* failed \(\w+\)$",  # a bug of the operation
}
_OF_READABLE_CALLS = {
    "unknown_name": r"there is no function named ",
    "no_medium": r"there is no image to |.* is only for videos",
    "box": r"bbox_2d is \[x1, y1, x2, y2\] with|the cropped area is too ",
    "number": r".* is out of range; ",  # of an image or a frame
    "arguments": r"missing |unknown arguments|.* must be |.*; it must have ",
}
"""How the messages of our own operations begin, in the order in which they are compared."""

ERROR_KINDS = ("unreadable", *_OF_ANY_CALL, *_OF_READABLE_CALLS, "other")
"""`unreadable` is a text that is no call; `other`: what operations of one's own say, or an image cannot be shown."""


def error_kind(record: OperationRecord) -> str | None:
    """One of `ERROR_KINDS`; None for a call that succeeded."""
    if record.error is None:
        return None
    patterns = _OF_ANY_CALL if record.name is None else _OF_ANY_CALL | _OF_READABLE_CALLS
    first_line = record.error.partition("\n")[0][:1000]
    kinds = (kind for kind, pattern in patterns.items() if re.match(pattern, first_line))
    return next(kinds, "unreadable" if record.name is None else "other")
