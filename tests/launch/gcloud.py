#!/usr/bin/env python3
"""A stand-in for gcloud: a TPU slice of two hosts, which are folders of the directory in $CLOUD.

What is in that directory:
  calls       one JSON list of arguments a call
  failures    a JSON object: a piece of a call, and how often calls with it fail
  states      a JSON list: the states of the queued resource, each shown once, the last for ever; no file, no resource
  created     the states of a resource to come
  preempt     a piece of a call; the first call with it finds the slice preempted
  host0, …    home directories; commands over ssh are executed in them
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

CLOUD = pathlib.Path(os.environ["CLOUD"])
HOSTS = [CLOUD / "host0", CLOUD / "host1"]
STATES = CLOUD / "states"


def main(arguments: list[str]) -> int:
    with (CLOUD / "calls").open("a") as file:
        print(json.dumps(["gcloud", *arguments]), file=file)
    call = " ".join(arguments)
    failures = json.loads((CLOUD / "failures").read_text()) if (CLOUD / "failures").exists() else {}
    for piece, count in failures.items():
        if count and piece in call:
            (CLOUD / "failures").write_text(json.dumps(failures | {piece: count - 1}))
            print(f"gcloud: {piece} failed", file=sys.stderr)
            return 1
    if (CLOUD / "preempt").exists() and (CLOUD / "preempt").read_text() in call:
        (CLOUD / "preempt").unlink()
        remove_hosts()
        STATES.write_text(json.dumps(["SUSPENDING", "SUSPENDED"]))
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in arguments if "=" in argument[:20])
    match arguments[2:4]:
        case ["queued-resources", "list"]:
            if STATES.exists():
                state, *rest = json.loads(STATES.read_text())
                STATES.write_text(json.dumps(rest or [state]))
                print(state)
        case ["queued-resources", "create"]:
            if STATES.exists():
                return 1
            states = CLOUD / "created"
            STATES.write_text(states.read_text() if states.exists() else '["ACTIVE"]')
            make_hosts()
        case ["queued-resources", "delete"]:
            remove_hosts()
            STATES.unlink()
        case ["tpu-vm", "describe"]:
            print("READY")
        case ["tpu-vm", "scp"]:
            for host in HOSTS:
                shutil.copy(arguments[4], host)
        case ["tpu-vm", "ssh"]:
            hosts = HOSTS if flags["worker"] == "all" else [HOSTS[int(flags["worker"])]]
            return max(ssh(host, flags["command"]) for host in hosts)
        case _:
            return 64
    return 0


def make_hosts() -> None:
    for host in HOSTS:
        host.mkdir()


def remove_hosts() -> None:
    for host in HOSTS:
        for pid in host.glob("*/.run/pid"):
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(host, ignore_errors=True)


def ssh(host: pathlib.Path, command: str) -> int:
    if not host.is_dir():
        return 255
    status = subprocess.run(["bash", "-c", command], cwd=host, env={**os.environ, "HOME": str(host)}).returncode
    if " start " in command and not (CLOUD / "hang").exists():  # so that what a test sees does not depend on its speed
        give_up = time.monotonic() + 20
        while not any(host.glob("*/.run/status")) and time.monotonic() < give_up:
            time.sleep(0.02)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
