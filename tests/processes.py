"""Programs in processes of their own, for tests: several joined over localhost, or one with several devices."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).parent.parent  # scripts import from `tests`


def start(command: Sequence[str], count: int, logs: pathlib.Path) -> list[subprocess.Popen]:
    """Starts `python COMMAND --coordinator HOST:PORT --processes COUNT --process NUMBER` so often, each with a log."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    started = []
    for number in range(count):
        identity = ["--coordinator", address, "--processes", str(count), "--process", str(number)]
        with open(logs / f"{number}.log", "wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, *command, *identity],
                    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def run(command: Sequence[str], count: int, timeout: float = 900) -> list[str]:
    """Runs them to their end; returns what each wrote. All must succeed."""
    with tempfile.TemporaryDirectory() as directory:
        logs = pathlib.Path(directory)
        processes = start(command, count, logs)
        try:
            statuses = [process.wait(timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
        written = [(logs / f"{number}.log").read_text() for number in range(count)]
    assert not any(statuses), "\n".join(
        f"--- {status}:\n{text[-4000:]}" for status, text in zip(statuses, written, strict=True)
    )
    return written


def on_devices(count: int, script: str, *arguments: object) -> None:
    """Runs a script on so many devices of the CPU; it ends with printing "equal"."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={count}"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.strip().endswith("equal")
