"""What a run would refuse is refused before anything is created or submitted; configs go by their names."""

import pathlib
import sys

import pytest

from tests.launch.conftest import REPOSITORY
from tests.launch.test_tpu_run import SETTINGS, trained

WRONG = [
    ("--config.optimizer.b1=1.5", "config.optimizer.b1 is 1.5: it must be 0 or greater and less than 1"),
    ("--config.optimizer.learnig_rate=1", "did you mean config.optimizer.learning_rate?"),
    ("--config.data.pass_rates=()", "config.data.pass_rates is (): it must be (least, most)"),
]


@pytest.fixture
def checked(machine):
    """A whole checkout, and a Python that can check settings, as a machine has that nothing is installed on."""
    (machine.root / "pixel_reasoner_jax").symlink_to(REPOSITORY / "pixel_reasoner_jax")
    python = machine.bin / "checking"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    machine.environment["PYTHON"] = str(python)
    return machine


def installed(machine):
    """As `setup` leaves it, but with that Python."""
    venv = machine.root / ".venv" / "bin"
    venv.mkdir(parents=True)
    for name, target in (("python", "checking"), ("pixel-reasoner", "pixel-reasoner")):
        (venv / name).write_bytes((machine.bin / target).read_bytes())
        (venv / name).chmod(0o755)


@pytest.mark.parametrize("override, message", WRONG)
def test_a_slice_is_not_asked_for_with_a_wrong_setting(checked, override, message):
    result = checked.launch("tpu_run.sh", "resume", "rl_qwen2_5_vl_7b", override, **SETTINGS)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert checked.calls == []


@pytest.mark.parametrize("slurm", [[], ["--slurm"]])
def test_nothing_is_started_or_submitted_with_a_wrong_setting(checked, slurm):
    installed(checked)
    for name in ("sbatch", "squeue"):
        checked.stand_in(name)
    result = checked.launch("gpu_run.sh", *slurm, "run", "sft_qwen2_5_vl_7b", "--config.train.batch_size=0")
    assert result.returncode == 2 and "config.train.batch_size is 0: it must be greater than 0" in result.stderr
    assert checked.commands == []


def test_configs_go_by_their_names(machine):
    recipes = machine.root / "configs" / "recipes"
    recipes.mkdir(exist_ok=True)
    (recipes / "rl_mine.py").write_bytes((machine.root / "configs" / "rl_release_7b.py").read_bytes())
    files = {
        "rl_release_7b": "configs/rl_release_7b.py",
        "rl_release_7b.py": "configs/rl_release_7b.py",
        "configs/rl_release_7b.py": "configs/rl_release_7b.py",
        "recipes/rl_mine": "configs/recipes/rl_mine.py",
    }
    for name, file in files.items():
        result = machine.launch("gpu_run.sh", "--dry-run", "run", name)
        assert result.stdout == f"launch/worker.sh start rl --config {file}\n", result.stderr
    result = machine.launch("gpu_run.sh", "--dry-run", "run", "rl_none")
    assert result.returncode == 2 and "there is no rl_none" in result.stderr


def test_a_slice_runs_a_config_by_its_name(machine):
    result = machine.launch("tpu_run.sh", "resume", "rl_release_7b", **SETTINGS)
    assert result.returncode == 0, result.stderr
    start = ["pixel-reasoner", "rl", "--distributed", "--config", "configs/rl_release_7b.py"]
    assert trained(machine) == [[*start, "--config.workdir=gs://b/x/runs/rl_release_7b", "--resume"]] * 2


def test_changes_that_hosts_would_not_get_are_said(machine):
    machine.launch("tpu_run.sh", "create", **SETTINGS)
    config = pathlib.Path(machine.root / "configs" / "rl_release_7b.py")
    config.write_text(config.read_text() + "# changed\n")
    result = machine.launch("tpu_run.sh", "run", "rl_release_7b", "--dry-run", **SETTINGS)
    assert "the hosts get the last commit, without the changes to configs/rl_release_7b.py since" in result.stderr


def test_a_launch_without_a_python_that_can_check_says_so(checked):
    checked.environment["PYTHON"] = "/bin/false"
    result = checked.launch("tpu_run.sh", "run", "rl_release_7b", "--dry-run", **SETTINGS)
    assert result.returncode == 0
    assert "configs/rl_release_7b.py and its overrides are not checked; with `python3 -m pip" in result.stderr
