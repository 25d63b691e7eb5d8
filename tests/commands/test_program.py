"""The program from its first moment on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from pixel_reasoner_jax import signals
from pixel_reasoner_jax.commands import cli, program
from tests.conftest import REPOSITORY

# Ctrl-C while a module is imported that many other modules need.
SCRIPT = """
    import builtins, os, signal, sys
    from pixel_reasoner_jax.commands import program

    def interrupted(name, *rest, original=builtins.__import__):
        if name == "pixel_reasoner_jax.config":
            os.kill(os.getpid(), signal.SIGINT)
        return original(name, *rest)

    builtins.__import__ = interrupted
    sys.exit(program.main())
"""


def test_ctrl_c_while_the_program_starts_is_one_line():
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), "--help"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (130, "pixel-reasoner: interrupted\n", "")
    assert program.INTERRUPTED == signals.INTERRUPTED


def test_the_program_is_the_command_line(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["pixel-reasoner", "sft"])
    try:
        with pytest.raises(SystemExit) as ended:
            program.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 2 and "--config" in capsys.readouterr().err
    monkeypatch.setattr(cli, "main", lambda: 75)
    try:
        assert program.main() == 75
    finally:
        signal.signal(signal.SIGINT, before)
    assert "pixel-reasoner=pixel_reasoner_jax.commands.program:main" in (REPOSITORY / "setup.py").read_text()


def test_writes_that_a_full_disk_leaves_unfinished_are_not_told_of():
    """Orbax begins several writes, and when one fails never awaits the others."""
    program = """
        import asyncio, errno, sys
        from pixel_reasoner_jax.commands.ending import end_in_one_line

        async def write(): pass

        def run():
            left = write()
            raise OSError(errno.ENOSPC, "No space left on device")

        sys.exit(end_in_one_line(run, again=""))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
