"""How a program ends: with its exit status, and where that is no bug, with one line that says why."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable

from pixel_reasoner_jax.errors import RunStopped, UserError
from pixel_reasoner_jax.files import storage_problem
from pixel_reasoner_jax.signals import INTERRUPTED, STOPPED, Interrupts


def end_in_one_line(run: Callable[[], int], again: str, debug: bool = False, is_program: bool = True) -> int:
    """Runs what a program does, and says in one line why it ended where that is no bug.

    Args:
      run: returns the exit status.
      again: the command that goes on where it stopped; "" if there is none.
      debug: raise every error.
      is_program: the process ends with it.

    Returns:
      The exit status: what `run` returns, 2 for what the user can mend (`UserError`, a file that the system refuses, a
      full disk), `INTERRUPTED` after Ctrl-C, `STOPPED` where a run ended for SIGTERM and the same command goes on.
      Every other exception is a bug and is raised.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # no PyTorch, which is not needed
    with Interrupts(lambda state: _say_interrupted(state, again)) as interrupts:
        try:
            return run()
        except BaseException as error:
            if debug or not _is_told_in_one_line(error):
                raise
            if is_program:  # a write that fails can leave others begun, of which Python would tell at its end
                warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
            status = say_error(error, again)
            interrupts.told = True
            return status
        finally:
            if is_program and interrupts.count:
                interrupts.keep()  # while the process ends, too


def _is_told_in_one_line(error: BaseException) -> bool:
    """Whether an exception is no bug: an interrupt, a mistake of the user's, or an error about a file or a disk.

    The system names the file; the client of an object store raises its errors about files without an errno.
    """
    if isinstance(error, OSError) and not isinstance(error, UserError) and not storage_problem(error):
        return error.filename is not None or error.errno is None
    if isinstance(error, KeyboardInterrupt | UserError | RunStopped):
        return True
    return isinstance(error, Exception) and storage_problem(error) is not None


def _say_interrupted(state: str, again: str) -> None:
    where = f" {state}" if state else ""
    go_on = f"; go on with: {again}" if again else ""
    print(f"pixel-reasoner: interrupted{where}{go_on}", file=sys.stderr, flush=True)


def say_error(error: BaseException, again: str) -> int:
    """Says what went wrong, and where it helps the command that goes on; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        _say_interrupted(str(error), again)
        return INTERRUPTED
    if isinstance(error, RunStopped):
        print(f"pixel-reasoner: {error}; go on with: {again}", file=sys.stderr)
        return STOPPED
    if _is_told_in_one_line(error):
        text = str(error)
        if not isinstance(error, UserError) and (problem := storage_problem(error)):
            text = f"{problem}: what this command was writing is not complete; make room, or write elsewhere"
        elif isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        print(f"pixel-reasoner: error: {text}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1
