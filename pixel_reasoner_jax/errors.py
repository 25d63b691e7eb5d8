"""The exceptions that are no bugs, users' mistakes and runs that were told to end, and how messages show values.

The command line prints the message of these alone, and other errors' tracebacks.
"""

from __future__ import annotations

import reprlib

SHOWN = 80  # characters of a value in a message

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = SHOWN


class UserError(ValueError):
    """A mistake in an option, a setting, a file or a call; the message says what, where and what to do.

    Every other exception that ends a run is a bug of this package, even a ValueError that a library raises, unless it
    is one of those below or says that a disk fails (`files.storage_problem`).
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user has named does not exist."""


class CheckpointError(UserError):
    """A checkpoint that is missing or does not fit; the message names the file or directory, and the tensor."""


class MissingModelError(CheckpointError, MissingFileError):
    """A model's folder, or a file that it must have, does not exist."""


class NoUpdateError(UserError):
    """A training that has ended without an update, so that there is no trained model; the message says why."""


class RunStopped(BaseException):
    """A run that SIGTERM has ended: nothing is wrong, and it goes on with `resume`; the message says what is saved.

    No Exception: it comes wherever the program is, also where every Exception means that a file is damaged.
    """


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C in a run; the message says where it stopped and what is saved."""


def shown(value: object) -> str:
    """A value for a message, cut to about `SHOWN` characters; of data only the size is told."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, str) and len(value) > SHOWN:
        return f"{repr(value[:SHOWN])[: SHOWN - 1]}… ({len(value):,} characters)"
    text = repr(value) if isinstance(value, str) else _short.repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
