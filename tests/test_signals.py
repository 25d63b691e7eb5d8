"""Ctrl-C, once and twice, in programs of their own: what is written and how they end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from pixel_reasoner_jax import signals
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.errors import RunStopped
from tests.conftest import REPOSITORY

PROGRAM = """
    import logging, os, signal, sys, threading, time, types
    from pixel_reasoner_jax.commands import cli
    from pixel_reasoner_jax.signals import telling

    def run(args):
        stop = threading.Event()
        def work():
            stop.wait()
            logging.error("a thread has lost what it works with")
            raise RuntimeError("lost")
        thread = threading.Thread(target=work)
        thread.start()
        with telling(lambda: "after step 7; step 5 is saved in runs/x"):
            try:
                print("ready", flush=True)
                {wait}
            finally:
                stop.set()
                thread.join()
                print("closing", flush=True)
                {close}

    cli.importlib = types.SimpleNamespace(import_module=lambda name: None)
    cli._run = lambda module, args: run(args)
    sys.exit(cli.main())
"""


def interrupted(wait: str, close: str, times: int) -> tuple[int, str]:
    """Exit status and standard error of a command that Ctrl-C ends."""
    script = textwrap.dedent(PROGRAM).format(wait=wait, close=close)
    command = [sys.executable, "-c", script, "synthesize", "--source", "table:x", "--count", "3", "--out", "y"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        for said in ("closing\n", "")[:times]:
            process.send_signal(signal.SIGINT)
            if said:
                assert process.stdout.readline() == said
                time.sleep(0.05)
        return process.wait(60), process.stderr.read()


def test_ctrl_c_is_one_line():
    status, said = interrupted("time.sleep(60)", "pass", 1)
    assert (status, said) == (
        130,
        "pixel-reasoner: interrupted; go on with: pixel-reasoner synthesize --source table:x --count 3 --out y\n",
    )


def test_a_second_ctrl_c_does_not_wait_and_is_one_line():
    status, said = interrupted("time.sleep(60)", "time.sleep(60)", 2)
    assert status == 130
    assert said == (
        "pixel-reasoner: interrupted after step 7; step 5 is saved in runs/x;"
        " go on with: pixel-reasoner synthesize --source table:x --count 3 --out y\n"
    )


def test_ctrl_c_in_a_destructor_is_not_lost():
    destructor = "type('D', (), {'__del__': lambda self: time.sleep(60)})(); time.sleep(5)"
    status, said = interrupted(destructor, "pass", 1)
    assert status == 130 and len(said.splitlines()) == 1


def test_sigterm_in_a_destructor_is_without_a_word(monkeypatch):
    def stopped(self):
        raise RunStopped("SIGTERM")

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    with signals.Interrupts(print):
        type("Stopped", (), {"__del__": stopped})()
    assert not shown


def test_what_is_changed_is_restored():
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), signals.Interrupts(print) as interrupts:
        signal.raise_signal(signal.SIGINT)
    assert interrupts.count == 1
    assert before == (signal.getsignal(signal.SIGINT), sys.unraisablehook)


def test_children_that_are_shielded_outlive_what_is_sent_to_all():
    sleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    with signals.shielded():
        child = subprocess.Popen(sleep, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"up\n"
        for number in (signal.SIGINT, signal.SIGTERM):
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize(
    "argv, command",
    [
        ("sft --config a.py --config.seed=1", "sft --config a.py --config.seed=1 --resume"),
        ("rl --resume --config 'a b.py'", "rl --config 'a b.py' --resume"),
        ("rl --config a.py --resume-from 7 --distributed", "rl --config a.py --distributed --resume"),
        ("rl --config a.py --resume-from=7", "rl --config a.py --resume"),
        ("quickstart --config.seed=1", "quickstart --config.seed=1"),
        ("evaluate --model x", ""),
        ("evaluate --model x --on data:q.jsonl --out y", "evaluate --model x --on data:q.jsonl --out y"),
        ("generate --model x --queries=q.jsonl --out y", "generate --model x --queries=q.jsonl --out y"),
        ("generate --model x --image y --question z", ""),
        ("fly", ""),
        ("", ""),
    ],
)
def test_the_command_that_goes_on(argv, command):
    assert cli._command_to_go_on(shlex.split(argv)) == (f"pixel-reasoner {command}" if command else "")
