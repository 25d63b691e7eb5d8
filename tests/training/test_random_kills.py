"""A run that is killed, again and again, at random moments, ends as one that was left alone, to the last bit."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from pixel_reasoner_jax.checkpoint import CHECKPOINTS
from pixel_reasoner_jax.metrics import read_metrics
from tests.conftest import REPOSITORY
from tests.training.test_processes import TIMED

KILLS = 15  # of each phase

# Runs a phase in which luck pays; kills itself so many seconds after it began to do something for the nth time.
SCRIPT = """
import json, os, signal, sys, threading
import pytest
from ml_collections import ConfigDict
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.training import rl, rl_episode, sft
from pixel_reasoner_jax.training.training_run import TrainingRun
from tests.training.conftest import let_luck_pay

phase, path, moment, times, delay = sys.argv[1:]
config = load_config(f"{phase}_qwen2_5_vl_7b")
config.update(ConfigDict(json.loads(open(path).read())))
left = int(times)

def watched(name, function):
    def call(*arguments, **keywords):
        global left
        left -= name == moment
        if name == moment and not left:
            threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL)).start()
        return function(*arguments, **keywords)
    return call

for name in ("save", "write", "export", "restore"):
    setattr(TrainingRun, name, watched(name, getattr(TrainingRun, name)))
rl_episode.collect = watched("rollout", rl_episode.collect)
rl.Trainer.update = watched("update", rl.Trainer.update)
with pytest.MonkeyPatch.context() as patch:
    let_luck_pay(patch)
    {"sft": sft, "rl": rl}[phase].run(config, resume=True)
"""

MOMENTS = ("save", "rollout", "update", "write", "restore", "export")


def run(script: pathlib.Path, phase: str, config, moment: str = "", times: int = 0, delay: float = 0.0) -> bool:
    """Runs the phase; returns whether it was killed before its end."""
    file = script.parent / "config.json"
    file.write_text(config.to_json_best_effort())
    done = subprocess.run(
        [sys.executable, str(script), phase, str(file), moment, str(times), str(delay)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-4000:]
    return done.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_15_random_kills(phase, request, tmp_path):
    """Of 36 steps, each with a checkpoint, over several epochs of the data."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    config = request.getfixturevalue(f"{phase}_config")
    config.train.update(dict(steps=36, checkpoint_every=1, keep_checkpoints=3))
    config.workdir = str(tmp_path / "whole")
    assert not run(script, phase, config)
    config.workdir = str(tmp_path / "killed")
    random, kills = np.random.default_rng(0 if phase == "sft" else 1), []
    moments = [moment for moment in MOMENTS if phase == "rl" or moment != "rollout"]
    while len(kills) < KILLS:
        # An export ends the run: the last kills are of it.
        moment = "export" if len(kills) >= KILLS - 2 else moments[random.integers(len(moments) - 1)]
        times = int(random.integers(1, 4)) if moment in ("save", "rollout", "update", "write") else 1
        assert run(script, phase, config, moment, times, float(random.random() * 0.05)), (moment, times)
        kills.append(moment)
    assert not run(script, phase, config)
    print(f"\n{phase}: killed {len(kills)} times, in {', '.join(f'{kills.count(m)} {m}' for m in moments)}")
    check_equal(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed" / CHECKPOINTS).glob("*tmp*"))


def check_equal(whole: pathlib.Path, killed: pathlib.Path) -> None:
    """The same figures of every step and the same model, bit for bit."""
    for one, other in zip(read_metrics(whole), read_metrics(killed), strict=True):
        assert {k: v for k, v in one.items() if not k.startswith(TIMED)} == {
            k: v for k, v in other.items() if not k.startswith(TIMED)
        }
    expected, actual = (load_file(directory / "model" / "model.safetensors") for directory in (whole, killed))
    assert expected.keys() == actual.keys()
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
