"""gpu_run.sh and worker.sh with stand-ins for Python and Slurm that record how they were called."""

from __future__ import annotations

import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
CONFIG = "configs/sft_qwen2_5_vl_7b.py"
OVERRIDE = "--config.workdir=runs/a 'b' $HOME"


def wait_for(machine, state):
    for _ in range(100):
        if machine.launch("gpu_run.sh", "status").stdout == f"job: {state}\n":
            return
        time.sleep(0.1)
    raise AssertionError(f"never {state}")


def test_one_machine(machine):
    assert "nothing is installed" in machine.launch("gpu_run.sh", "run", CONFIG).stderr
    for _ in range(2):
        assert machine.launch("gpu_run.sh", "setup").returncode == 0
    assert sum("pip" in command for command in machine.commands) == 1
    assert machine.commands[-1][-1] == ".[cuda]"
    assert machine.launch("gpu_run.sh", "run", CONFIG, OVERRIDE).returncode == 0
    wait_for(machine, "finished")
    assert machine.launch("gpu_run.sh", "resume", CONFIG, OVERRIDE).returncode == 0
    wait_for(machine, "finished")
    command = ["pixel-reasoner", "sft", "--config", CONFIG, OVERRIDE]
    assert machine.commands[-2:] == [command, [*command, "--resume"]]


def test_a_run_that_sigterm_has_stopped_goes_on(machine):
    machine.launch("gpu_run.sh", "setup")
    (machine.cloud / "stopped").touch()
    machine.launch("gpu_run.sh", "run", CONFIG, OVERRIDE)
    wait_for(machine, "finished")
    command = ["pixel-reasoner", "sft", "--config", CONFIG, OVERRIDE]
    assert machine.commands[-2:] == [command, [*command, "--resume"]]
    (machine.cloud / "stopped").touch()
    machine.launch("gpu_run.sh", "resume", CONFIG, OVERRIDE)
    wait_for(machine, "finished")
    assert machine.commands[-2:] == [[*command, "--resume"]] * 2  # said once


def test_a_run_that_is_stopped_on_purpose_does_not_go_on(machine):
    """The program takes SIGTERM as a wish to save and end with status 75."""
    machine.launch("gpu_run.sh", "setup")
    (machine.root / ".venv" / "bin" / "pixel-reasoner").write_text(
        '#!/usr/bin/env bash\necho begun >>"$CLOUD/begun"\ntrap "exit 75" TERM\nsleep 600 &\nwait\n'
    )
    machine.launch("gpu_run.sh", "run", CONFIG)
    wait_for(machine, "running")
    assert machine.launch("gpu_run.sh", "stop").returncode == 0
    wait_for(machine, "stopped")
    assert (machine.cloud / "begun").read_text() == "begun\n"


def test_one_machine_runs_one_thing(machine):
    machine.launch("gpu_run.sh", "setup")
    (machine.cloud / "hang").touch()
    machine.launch("gpu_run.sh", "run", CONFIG)
    result = machine.launch("gpu_run.sh", "run", CONFIG)
    assert result.returncode == 0 and "it runs already" in result.stderr
    result = machine.launch("gpu_run.sh", "run", CONFIG, OVERRIDE)
    assert result.returncode == 3 and f"another run is in progress: sft --config {CONFIG}\n" in result.stderr
    wait_for(machine, "running")
    assert machine.launch("gpu_run.sh", "stop").returncode == 0
    wait_for(machine, "stopped")
    (machine.cloud / "hang").unlink()
    (machine.cloud / "breaks").touch()
    machine.launch("gpu_run.sh", "run", CONFIG)
    wait_for(machine, "failed 3")


def test_an_old_python_is_replaced(machine):
    assert machine.launch("worker.sh", "install", "tpu", TOO_OLD="1").returncode == 0
    arguments = [command[1:] for command in machine.commands[1:]]
    assert arguments[0] == ["-m", "pip", "install", "--quiet", "--user", "uv"]
    assert arguments[1] == ["-m", "uv", "venv", "--quiet", "--seed", "--python", "3.11", ".venv"]


def test_slurm(machine):
    machine.launch("gpu_run.sh", "setup")
    for name in ("sbatch", "scancel", "srun"):
        machine.stand_in(name)
    machine.stand_in("squeue", f'[[ ! -e "$CLOUD/queued" ]] || echo "7 RUNNING 1:00 node1 sft --config {CONFIG}"')
    options = ("--slurm", "--partition=big", "--gpus=4")
    assert machine.launch("gpu_run.sh", *options, "run", CONFIG, OVERRIDE).returncode == 0
    *flags, wrapped = machine.commands[-1]
    assert {"--requeue", "--partition=big", "--gpus-per-node=4", "--nodes=1", "--job-name=pixel-reasoner"} <= set(flags)
    # What Slurm gives to a shell, at first and after a preemption.
    for restarts, resume in (({}, []), ({"SLURM_RESTART_COUNT": "1"}, ["--resume"])):
        script = wrapped.removeprefix("--wrap=")
        subprocess.run(["sh", "-c", script], env=machine.environment | restarts, cwd=machine.root, check=True)
        command = [
            "srun",
            "--cpus-per-task=64",
            ".venv/bin/pixel-reasoner",
            "sft",
            "--config",
            CONFIG,
            OVERRIDE,
            *resume,
        ]
        assert machine.commands[-1] == command
    machine.stand_in("scontrol")
    for status, requeued in ((75, True), (1, False)):
        machine.stand_in("srun", f"exit {status}")
        environment = machine.environment | {"SLURM_JOB_ID": "7"}
        done = subprocess.run(["sh", "-c", script], env=environment, cwd=machine.root)
        assert done.returncode == status
        assert (machine.commands[-1] == ["scontrol", "requeue", "7"]) == requeued
    machine.launch("gpu_run.sh", *options, "--nodes=2", "run", CONFIG)
    *flags, wrapped = machine.commands[-1]
    assert "--nodes=2" in flags and "--ntasks-per-node=1" in flags
    joined = f"srun --cpus-per-task=64 .venv/bin/pixel-reasoner sft --distributed --config {CONFIG}"
    assert wrapped.startswith(f"--wrap=JAX_LOCAL_DEVICE_IDS=0,1,2,3 {joined}")
    (machine.cloud / "queued").touch()
    result = machine.launch("gpu_run.sh", *options, "run", CONFIG)
    assert result.returncode == 0 and "queued already: 7 RUNNING" in result.stderr
    result = machine.launch("gpu_run.sh", *options, "resume", CONFIG)
    assert result.returncode == 0 and "queued already: 7 RUNNING" in result.stderr
    result = machine.launch("gpu_run.sh", *options, "run", CONFIG, OVERRIDE)
    assert result.returncode == 2 and "another run is queued as pixel-reasoner: 7 RUNNING" in result.stderr
    assert [command[0] for command in machine.commands[-3:]] == ["squeue"] * 3
    assert machine.launch("gpu_run.sh", "--slurm", "status").stdout.startswith("7 RUNNING")
    assert machine.launch("gpu_run.sh", "--slurm", "stop").returncode == 0
    assert machine.commands[-1] == ["scancel", "--me", "--name=pixel-reasoner"]
    machine.stand_in("sbatch", "exit 9")
    (machine.cloud / "queued").unlink()
    assert machine.launch("gpu_run.sh", "--slurm", "status").stdout == "no job is queued or running as pixel-reasoner\n"
    assert machine.launch("gpu_run.sh", "--slurm", "run", CONFIG).returncode == 9


@pytest.mark.parametrize("arguments", [["run", CONFIG, OVERRIDE], ["resume", CONFIG], ["status"], ["stop"]])
def test_a_dry_run_prints_what_is_called(machine, arguments):
    machine.launch("gpu_run.sh", "setup")
    for name in ("sbatch", "scancel", "squeue"):
        machine.stand_in(name)
    dry = machine.launch("gpu_run.sh", "--slurm", "--dry-run", *arguments)
    before = len(machine.commands)
    assert machine.launch("gpu_run.sh", "--slurm", *arguments).returncode == 0
    printed = [shlex.split(line) for line in dry.stdout.splitlines()]
    assert [call for call in printed if call != ["mkdir", "-p", "runs"]] == machine.commands[before:]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "launch/gpu_run.sh [--slurm]"),
        (["run"], "CONFIG is missing"),
        (["run", "configs/sft_none.py"], "there is no configs/sft_none.py"),
        (["run", CONFIG, "--hosts=2"], "unknown flag --hosts=2"),
        (["logs"], "nothing has run here yet"),
        (["run", CONFIG, "--resume"], "resume is a command"),
        (["start"], "there is no command start"),
        (["run", CONFIG, "more"], "there is more than a config: more"),
        (["--slurm", "--gpus=h100:8", "run", CONFIG], "GPUS is h100:8: it must be a positive number"),
        (["--nodes=2", "run", CONFIG], "--nodes is a setting of Slurm: give --slurm too"),
        (["--slurm", "--job-name=a/b", "run", CONFIG], "JOB_NAME is a/b: it must be of letters"),
        (["--slurm", "status"], "there is no squeue on this machine"),
    ],
)
def test_mistakes(machine, arguments, message):
    result = machine.launch("gpu_run.sh", *arguments)
    assert result.returncode == 2 and message in result.stderr


def test_help(machine):
    result = machine.launch("gpu_run.sh", "--help")
    assert result.returncode == 0 and "launch/gpu_run.sh [--slurm]" in result.stderr


def test_shellcheck():
    found = shutil.which("shellcheck", path=pathlib.Path(sys.executable).parent) or shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*LAUNCH.glob("*.sh"), LAUNCH.parent / "benchmarks" / "gpu.sh"]
    result = subprocess.run([found, "-x", *scripts], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
