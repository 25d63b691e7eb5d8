"""Child processes that run a module of this package: started by `-m`, so that scripts without a main guard work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from pixel_reasoner_jax.signals import shielded

START_LIMIT = 120.0  # seconds a child may take to start on a busy machine


def start(module: str, *arguments: str, **options: Any) -> subprocess.Popen:
    """Starts `python -m module arguments`, which finds what this process finds, prints nothing and gets no Ctrl-C.

    Args:
      module: its dotted name.
      options: of `subprocess.Popen`, such as the pipes that it talks through.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
    command = [sys.executable, "-P", "-m", module, *arguments]
    with shielded():
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, **options)


def runs(process: subprocess.Popen) -> bool:
    """Whether a child has neither ended nor been stopped."""
    if process.poll() is not None:
        return False
    if not hasattr(os, "waitid"):  # macOS before Python 3.13: a deadline is what ends a stopped child
        return True
    try:
        return not os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False  # another thread, which has waited for its end meanwhile, kept `poll` from seeing it


def how_ended(status: int) -> str:
    """The signal that a status of `Popen.returncode`'s kind tells of, by its name, or the exit status, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def end(process: subprocess.Popen) -> None:
    """Kills a child, if it still runs, and waits for its end."""
    if process.poll() is None:
        process.kill()
    process.wait()
