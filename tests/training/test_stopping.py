"""SIGTERM, damage and full disks in runs: what is saved, what is said, and that the run goes on bit for bit."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file

from data_pipeline.batch_loader import BatchLoader
from pixel_reasoner_jax import signals
from pixel_reasoner_jax.checkpoint import SET_ASIDE
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.errors import CheckpointError, RunInterrupted, RunStopped
from pixel_reasoner_jax.files import StorageError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training import rl, rl_episode, sft, stopping
from pixel_reasoner_jax.training.feed import Feed
from pixel_reasoner_jax.training.stopping import StopRequest, WaitEnded
from pixel_reasoner_jax.training.training_run import TrainingRun
from tests import processes
from tests.conftest import REPOSITORY
from tests.training.conftest import make_sft_config
from tests.training.test_processes import configured, leaves


def send_at(patch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Sends this process a signal when the figures of a step are written."""
    write = TrainingRun.write

    def write_and_send(self, now, metrics):
        write(self, now, metrics)
        if now == step:
            signal.raise_signal(number)

    patch.setattr(TrainingRun, "write", write_and_send)


def saved_steps(config) -> list[int]:
    folders = (pathlib.Path(config.workdir) / "checkpoints").iterdir()
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def assert_same_end(whole: pathlib.Path, resumed: pathlib.Path) -> None:
    expected, actual = (load_file(directory / "model.safetensors") for directory in (whole, resumed))
    for name in expected:
        np.testing.assert_array_equal(expected[name], actual[name], err_msg=name)
    assert [line["step"] for line in read_metrics(resumed.parent)] == [1, 2, 3, 4]
    for one, other in zip(read_metrics(whole.parent), read_metrics(resumed.parent), strict=True):
        assert one.get("loss") == other.get("loss") and one.get("reward") == other.get("reward")


@pytest.fixture(scope="module")
def stopped(start, tmp_path_factory):
    """The directory of a run of SFT that SIGTERM ended in step 3 of 4; it saves every second step."""
    config, handler = make_sft_config(start, tmp_path_factory.mktemp("stopped")), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        send_at(patch, 3, signal.SIGTERM)
        with pytest.raises(RunStopped, match="SIGTERM has ended the run after step 3; step 3 is saved in .*run$"):
            sft.run(config)
    assert saved_steps(config) == [2, 3] and signal.getsignal(signal.SIGTERM) is handler
    return pathlib.Path(config.workdir)


@pytest.fixture
def stopped_config(stopped, start, tmp_path):
    """The config of a copy of that run."""
    config = make_sft_config(start, tmp_path)
    shutil.copytree(stopped, config.workdir)
    return config


def test_sft_goes_on_after_the_step_in_which_sigterm_came(stopped_config, uninterrupted, capsys):
    assert_same_end(uninterrupted("sft"), sft.run(stopped_config, resume=True))
    assert f"{stopped_config.workdir} goes on after step 3\n" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("episode", [1, 3, 4])
def test_rl_drops_a_rollout_and_begins_the_episode_anew(rl_config, uninterrupted, monkeypatch, luck_pays, episode):
    whole, seed_of = uninterrupted("rl"), rl_episode._episode_seed

    def send(seed: int, now: int) -> int:
        if now == episode:
            signal.raise_signal(signal.SIGTERM)
        return seed_of(seed, now)

    saved = {1: [], 3: [2], 4: [2, 3]}[episode]  # before the episode, though only every second one is saved
    with monkeypatch.context() as patch:
        patch.setattr(rl_episode, "_episode_seed", send)
        said = f"step {saved[-1]} is saved" if saved else "no step is saved yet"
        with pytest.raises(RunStopped, match=f"after step {episode - 1}; {said}"):
            rl.run(rl_config)
    assert saved_steps(rl_config) == saved
    assert_same_end(whole, rl.run(rl_config, resume=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "update, saved",
    [
        pytest.param(5, [2], id="the state before the episode is saved, so the rest of it is dropped"),
        pytest.param(7, [2, 4], id="it is not saved, so the episode's updates are made first"),
    ],
)
def test_rl_between_two_updates_of_an_episode(rl_config, monkeypatch, luck_pays, update, saved):
    rl_config.train.update(dict(batch_size=4, steps=8))
    rl_config.optimizer.learning_rate = 1e-3
    workdir, update_of = rl_config.workdir, rl.Trainer.update
    rl_config.workdir = f"{workdir}_whole"
    whole = rl.run(rl_config)
    rl_config.workdir, made = workdir, []

    def send(self, *arguments):
        made.append(1)
        if len(made) == update:
            signal.raise_signal(signal.SIGTERM)
        return update_of(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rl.Trainer, "update", send)
        with pytest.raises(RunStopped, match=f"step {saved[-1]} is saved"):
            rl.run(rl_config)
    assert saved_steps(rl_config) == saved and len(made) == 2 * saved[-1] + (update % 2 if saved == [2] else 0)
    assert_same_end(whole, rl.run(rl_config, resume=True))


def waiting_at(patch: pytest.MonkeyPatch, reader: type, batch: int) -> None:
    """SIGTERM comes when so many batches were asked for, of which the last one never comes."""
    read, asked = reader.__next__, []

    def wait(self):
        asked.append(1)
        if len(asked) == batch:
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("it goes on")
        return read(self)

    patch.setattr(reader, "__next__", wait)


def test_a_run_that_waits_for_data_stops_at_once(stopped_config, monkeypatch):
    waiting_at(monkeypatch, Feed, 1)
    with pytest.raises(RunStopped, match="SIGTERM has ended the run after step 3; step 3 is saved in .*run$"):
        sft.run(stopped_config, resume=True)
    assert saved_steps(stopped_config) == [2, 3]


@pytest.mark.slow
def test_sft_that_waits_for_data_saves_the_step_before(sft_config, uninterrupted, monkeypatch):
    with monkeypatch.context() as patch:
        waiting_at(patch, Feed, 4)
        with pytest.raises(RunStopped, match="SIGTERM has ended the run after step 3; step 3 is saved in .*run$"):
            sft.run(sft_config)
    assert saved_steps(sft_config) == [2, 3]
    assert_same_end(uninterrupted("sft"), sft.run(sft_config, resume=True))


@pytest.mark.slow
@pytest.mark.parametrize("episode", [1, 4])
def test_rl_that_waits_for_data_saves_the_episode_before(rl_config, uninterrupted, monkeypatch, luck_pays, episode):
    whole = uninterrupted("rl")
    with monkeypatch.context() as patch:
        waiting_at(patch, BatchLoader, episode)
        with pytest.raises(RunStopped, match=f"SIGTERM has ended the run after step {episode - 1}; "):
            rl.run(rl_config)
    assert saved_steps(rl_config) == ([] if episode == 1 else [2, 3])
    assert_same_end(whole, rl.run(rl_config, resume=True))


def test_a_wait_is_ended_once_and_nothing_else(monkeypatch):
    with StopRequest() as stop:
        stop.begin()
        with stop.ending_waits():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked()
        with pytest.raises(WaitEnded), stop.ending_waits():
            raise AssertionError("it waits")
    monkeypatch.setattr(stopping.jax.distributed, "is_initialized", lambda: True)
    with StopRequest() as stop, stop.ending_waits():  # the others would wait for this one
        signal.raise_signal(signal.SIGTERM)
    assert stop.asked()


def test_sigterm_while_a_file_is_read_is_not_taken_for_damage_of_it(start, monkeypatch):
    """What reads a stranger's file takes every Exception for damage; a signal comes wherever the program is."""
    monkeypatch.setattr(tokenizers.Tokenizer, "from_file", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(RunStopped, match="nothing new is lost"), StopRequest():
        Processor.from_pretrained(start / "model")


@pytest.mark.parametrize("at", ["load_config", "importlib"])
def test_sigterm_while_a_command_starts_has_the_status_of_a_run_that_goes_on(at, monkeypatch, capsys):
    def send(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(cli, at, send if at == "load_config" else types.SimpleNamespace(import_module=send))
    command = ["sft", "--config", "sft_qwen2_5_vl_7b"]
    assert cli.main(command) == signals.STOPPED
    assert capsys.readouterr().err.endswith("go on with: pixel-reasoner sft --config sft_qwen2_5_vl_7b --resume\n")


def test_sigterm_before_a_run_has_begun_ends_it_at_once():
    with pytest.raises(RunStopped, match="nothing new is lost"), StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
    with StopRequest() as stop:
        stop.begin()
        assert not stop.asked() and not stop.agreed()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked() and stop.agreed()


def test_all_processes_stop_for_the_one_that_was_asked(monkeypatch):
    monkeypatch.setattr(stopping, "all_gather", lambda own: np.array([own, 1]))
    assert StopRequest().agreed()
    monkeypatch.setattr(stopping, "all_gather", lambda own: np.array([own, 0]))
    assert not StopRequest().agreed()


def test_ctrl_c_says_where_it_was(stopped_config):
    with pytest.raises(RunInterrupted, match="^after step 3; step 3 is saved in .*run$"):
        with TrainingRun(stopped_config, resume=True):
            raise KeyboardInterrupt


@pytest.mark.parametrize("phase, unit", [(sft, "step"), (rl, "episode")])
def test_a_run_past_the_end_that_is_asked_for_is_an_error(stopped_config, rl_config, monkeypatch, phase, unit):
    """The run of RL is feigned: it is as far as one of SFT."""
    if phase is rl:
        monkeypatch.setattr(TrainingRun, "restore", lambda self, state, iterator: (state, {"episode": 3}))
        rl_config.workdir += "_rl"
    config = stopped_config if phase is sft else rl_config
    config.train.steps = 1
    message = f"after {unit} 3 already, and ends after {unit} 1 by config.train.steps or config.train.epochs"
    with pytest.raises(ConfigError, match=message):
        phase.run(config, resume=True)
    assert not (pathlib.Path(config.workdir) / "model").exists()


def tear(config, step: int) -> None:
    file = max((pathlib.Path(config.workdir) / "checkpoints" / str(step)).rglob("*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_run_goes_on_from_the_newest_whole_checkpoint(stopped_config, capsys):
    run = pathlib.Path(stopped_config.workdir)
    tear(stopped_config, 3)
    with TrainingRun(stopped_config, resume=True):
        pass
    said = capsys.readouterr().err
    assert "warning: checkpoint 3 is damaged (state/" in said and f"moved to {run / SET_ASIDE / '3'}" in said
    assert f"{run} goes on after step 2\n" in said
    assert saved_steps(stopped_config) == [2] and [line["step"] for line in read_metrics(run)] == [1, 2]
    tear(stopped_config, 2)
    with pytest.raises(CheckpointError, match=r"is whole \(step 2: [^;]*\): give back what was lost"):
        TrainingRun(stopped_config, resume=True)


def test_a_run_goes_on_from_the_checkpoint_that_is_named(stopped_config, capsys):
    run = pathlib.Path(stopped_config.workdir)
    with pytest.raises(CheckpointError, match="there is no checkpoint of step 7 in .*: there are 2, 3$"):
        TrainingRun(stopped_config, resume=7)
    with TrainingRun(stopped_config, resume=2):
        pass
    said = capsys.readouterr().err
    assert "checkpoint 3 is later than the one to go on from" in said and f"{run} goes on after step 2\n" in said
    assert saved_steps(stopped_config) == [2] and [line["step"] for line in read_metrics(run)] == [1, 2]


def test_a_damaged_checkpoint_that_is_named_is_not_replaced_by_another(stopped_config):
    tear(stopped_config, 2)
    with pytest.raises(CheckpointError, match=r"\(step 2: state/.* has changed\): .*--resume-from STEP: 3$"):
        TrainingRun(stopped_config, resume=2)
    assert saved_steps(stopped_config) == [2, 3]


def test_checkpoints_without_their_config_are_not_revived(stopped_config):
    run = pathlib.Path(stopped_config.workdir)
    (run / "config.json").unlink()
    for resume in (False, True):
        with pytest.raises(ConfigError, match="holds the checkpoints of a run whose config.json is missing"):
            TrainingRun(stopped_config, resume)
    assert saved_steps(stopped_config) == [2, 3]


def test_a_full_disk_is_one_line_with_step_reason_and_checkpoint(stopped_config):
    with pytest.raises(StorageError) as caught, TrainingRun(stopped_config, resume=True):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == (
        f"No space left on device: the run has ended after step 3; step 3 is saved in {stopped_config.workdir}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [2, 7, 12, 20])
def test_a_disk_that_fills_at_any_moment_is_one_line(sft_config, tmp_path, megabytes):
    """It fills while the first checkpoint, the model or a later checkpoint is written; a checkpoint takes 5 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("nothing can be mounted here")
    sft_config.workdir = str(disk / "run")
    sft_config.train.update(dict(steps=12, epochs=9))
    settings = [f"--config.{path}={value}" for path, value in leaves(sft_config)]
    command = [
        sys.executable,
        "-m",
        "pixel_reasoner_jax.commands.cli",
        "sft",
        "--config",
        "sft_qwen2_5_vl_7b",
        *settings,
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        trackers = "WARNING:pixel_reasoner_jax.trackers"  # which lose figures of their own, and say so
        others = ("sft: ", trackers, f"{sft_config.model.directory} was trained with other budgets")
        lines = [line for line in ended.stderr.splitlines() if not line.startswith(others)]
        assert len(lines) == 1, ended.stderr
        [line] = lines
        assert ended.returncode == 2 and line.startswith("pixel-reasoner: error: No space left on device: the run has")
        steps = [step for step in saved_steps(sft_config) if step]
        assert (f"step {steps[-1]} is saved" if steps else "no step is saved yet") in line
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(request, tmp_path):
    config = configured(request, "rl", "both", epochs=1000)
    config.train.steps = 1000
    settings = [f"--config.{path}={value}" for path, value in leaves(config)]
    command = ["-m", "pixel_reasoner_jax.commands.cli", "rl", "--config", "rl_qwen2_5_vl_7b", *settings]
    started, metrics = processes.start(command, 2, tmp_path), pathlib.Path(config.workdir) / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 300
        while not metrics.exists() or len(read_metrics(metrics)) < 2:
            assert time.monotonic() < deadline and started[0].poll() is None, (tmp_path / "0.log").read_text()
            time.sleep(0.2)
        started[1].send_signal(signal.SIGTERM)
        statuses = [process.wait(90) for process in started]
    finally:
        for process in started:
            process.kill()
    said = [(tmp_path / f"{number}.log").read_text() for number in range(2)]
    assert statuses == [75, 75] and all("SIGTERM has ended the run" in text for text in said), said
    assert "Traceback" not in "".join(said)
    assert saved_steps(config)[-1] == len(read_metrics(metrics))
