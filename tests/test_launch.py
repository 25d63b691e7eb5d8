"""The launchers, with stand-ins for gcloud and Python that record how they were called."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
COMMAND = ["rl", "--config", "configs/rl_qwen2_5_vl_7b.py", "--config.workdir=runs/a b"]


def fake(path, body=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$(basename "$0") $*" >> "$CALLS"\n{body}\n')
    path.chmod(0o755)


def launch(script, arguments, tmp_path, **environment):
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), **environment}
    result = subprocess.run(
        [LAUNCH / script, *arguments], capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )
    calls = tmp_path / "calls"
    return result, calls.read_text() if calls.exists() else ""


def test_tpu_run_copies_installs_and_runs(tmp_path):
    if not (LAUNCH.parent / ".git").exists():
        pytest.skip("it copies a git checkout, and this is none")
    fake(tmp_path / "bin" / "gcloud", 'if [[ "$*" == *"tar -x"* ]]; then tar -t > "$CALLS.files"; fi')
    result, calls = launch("tpu_run.sh", COMMAND, tmp_path, PROJECT="p", ZONE="z", TPU_NAME="t")
    assert result.returncode == 0, result.stderr
    assert calls.count("compute tpus tpu-vm ssh t --project=p --zone=z --worker=0") == 3
    assert '--editable ".[tpu]"' in calls
    assert r".venv/bin/pixel-reasoner rl --config configs/rl_qwen2_5_vl_7b.py --config.workdir=runs/a\ b" in calls
    assert "setup.py" in (tmp_path / "calls.files").read_text().split()


def test_tpu_run_says_what_is_unset_and_stops_at_a_failure(tmp_path):
    fake(tmp_path / "bin" / "gcloud", "exit 7")
    result, calls = launch("tpu_run.sh", COMMAND, tmp_path, PROJECT="p", TPU_NAME="t")
    assert result.returncode == 2 and "set ZONE" in result.stderr and "TPU_NAME=my-tpu" in result.stderr
    assert not calls
    result, calls = launch("tpu_run.sh", COMMAND, tmp_path, PROJECT="p", ZONE="z", TPU_NAME="t")
    assert result.returncode != 0 and calls.count("gcloud") == 1


def test_gpu_run_installs_once_and_runs(tmp_path):
    for name in ("python", "pixel-reasoner"):
        fake(tmp_path / "venv" / "bin" / name)
    for _ in range(2):
        result, calls = launch("gpu_run.sh", COMMAND, tmp_path, VENV=str(tmp_path / "venv"))
        assert result.returncode == 0, result.stderr
    assert calls.count("pip install") == 1 and "[cuda]" in calls
    assert calls.count("pixel-reasoner rl --config configs/rl_qwen2_5_vl_7b.py --config.workdir=runs/a b") == 2


@pytest.mark.parametrize("script", ["tpu_run.sh", "gpu_run.sh"])
def test_usage(script, tmp_path):
    result, _ = launch(script, [], tmp_path)
    assert result.returncode == 2 and f"launch/{script} rl --config" in result.stderr
