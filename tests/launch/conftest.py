"""A checkout to launch from, and stand-ins on the PATH for what would reach beyond this machine."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]

PYTHON = """
case "$*" in
  "-c "*) exit "${TOO_OLD:-0}" ;;
  *" venv "*)
    folder="${*: -1}"
    mkdir -p "$folder/bin"
    cp "$BIN/python" "$folder/bin/python"
    cp "$BIN/python" "$folder/bin/pip"
    cp "$BIN/pixel-reasoner" "$folder/bin/pixel-reasoner" ;;
esac
"""
TRAINING = """
[[ "$*" == *--resume* ]] || [[ ! -e "$CLOUD/hang" ]] || exec -a pixel-reasoner sleep 600
[[ ! -e "$CLOUD/breaks" ]] || { echo "out of luck"; exit 3; }
[[ ! -e "$CLOUD/stopped" ]] || { rm "$CLOUD/stopped"; exit 75; }
"""


class Machine:
    """Where the scripts run, and what they called."""

    def __init__(self, directory: pathlib.Path):
        self.cloud, self.bin, self.root = directory / "cloud", directory / "bin", directory / "checkout"
        self.cloud.mkdir()
        self.bin.mkdir()
        for name in ("launch", "configs"):
            shutil.copytree(REPOSITORY / name, self.root / name)
        shutil.copy(REPOSITORY / "setup.py", self.root)
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "All"]):
            identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
            subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True)
        (self.bin / "gcloud").write_text(
            f"#!{sys.executable}\n" + (REPOSITORY / "tests" / "launch" / "gcloud.py").read_text()
        )
        (self.bin / "gcloud").chmod(0o755)
        self.stand_in("python", PYTHON, record=True)
        self.stand_in("pixel-reasoner", TRAINING, record=True)
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "CLOUD": str(self.cloud),
            "BIN": str(self.bin),
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "PYTHON": str(self.bin / "python"),
            "POLL_SECONDS": "0",
        }

    def stand_in(self, name: str, body: str = "", record: bool = True) -> None:
        """Puts a command on the PATH that records its arguments and then does what `body` says."""
        file = self.bin / name
        call = f'{{ printf "%s" {name}; printf "\\t%s" "$@"; echo; }} >>"$CLOUD/commands"\n' if record else ""
        file.write_text(f"#!/usr/bin/env bash\n{call}{body}\n")
        file.chmod(0o755)

    def launch(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "launch" / script, *arguments],
            capture_output=True,
            text=True,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    @property
    def calls(self) -> list[list[str]]:
        """What gcloud was called with."""
        file = self.cloud / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def commands(self) -> list[list[str]]:
        """What the other stand-ins were called with."""
        file = self.cloud / "commands"
        return [line.split("\t") for line in file.read_text().splitlines()] if file.exists() else []

    def fail(self, **counts: int) -> None:
        (self.cloud / "failures").write_text(json.dumps(counts))


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    for worker in tmp_path.rglob("launch/worker.sh"):
        subprocess.run([worker, "stop"], check=True)
