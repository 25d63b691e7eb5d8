"""The exceptions that are no bugs: users' mistakes, and runs that were told to end. Only their messages are printed."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in an option, a setting, a file or a call; the message says what, where and what to do.

    Every other exception that ends a run is a bug of this package, even a ValueError that a library raises, unless it
    is one of those below or says that a disk fails (`files.storage_problem`).
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user has named does not exist."""


class RunStopped(Exception):
    """A run that SIGTERM has ended: nothing is wrong, and it goes on with `resume`; the message says what is saved."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C in a run; the message says where it stopped and what is saved."""
