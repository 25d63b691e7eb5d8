"""The exception class of users' mistakes. The command line prints its message alone, and other errors' tracebacks."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in an option, a setting, a file or a call; the message says what, where and what to do.

    Every other exception that ends a run is a bug of this package, even a ValueError that a library raises.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user has named does not exist."""


class CheckpointError(UserError):
    """A checkpoint that is missing or does not fit; the message names the file or directory, and the tensor."""


class MissingModelError(CheckpointError, MissingFileError):
    """A model's folder, or a file that it must have, does not exist."""
