"""What a user can mend, as a class of its own: the command line shows its message and keeps every other traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what was given: an option, a setting, a file, a call; the message says what, where and what to do.

    Every other exception that ends a run, a ValueError from inside a library among them, is a bug here.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that was named is not there."""
