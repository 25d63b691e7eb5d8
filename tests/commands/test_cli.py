from __future__ import annotations

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.errors import UserError

RL = "configs/rl_qwen2_5_vl_7b.py"
ASKED = ("--model", "x", "--question", "?")


def run(capsys, *argv):
    """Exit status, standard output and standard error of a command."""
    try:
        status = cli.main(argv)
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def implementation(monkeypatch):
    """Stands in for the modules that do the work; records what they were called with."""
    calls = []
    module = types.SimpleNamespace(
        run=lambda *args, **options: calls.append((args, options)),
        calls=calls,
    )
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
    return module


def test_help_lists_every_command(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(name in out and command.summary in " ".join(out.split()) for name, command in cli.COMMANDS.items())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_readable_help(name, capsys):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0 and f"pixel-reasoner {name}" in out
    command = cli.COMMANDS[name]
    assert ("--resume" in out) == command.resumes
    examples = [line.split() for line in out.splitlines() if line.startswith("  --config.")]
    assert bool(examples) == bool(command.reference)
    for example in examples:
        assert command.reference in out
        load_config(command.reference, [option.removeprefix("--config.").split("=") for option in example])


def test_overrides_and_resume_reach_the_run(implementation, capsys):
    argv = ("--resume", "--config.optimizer.learning_rate=3e-6", "--config.train.steps", "-0x5")
    status, _, err = run(capsys, "rl", "--config", RL, *argv)
    assert status == 2 and "config.train.steps is -5" in err
    status, _, err = run(capsys, "rl", "--config", RL, *argv[:2], "--config.train.steps", "5")
    assert status == 0, err
    ((config,), options) = implementation.calls[0]
    assert config.optimizer.learning_rate == 3e-6 and config.train.steps == 5
    assert options == {"resume": True}
    assert run(capsys, "rl", f"--config={RL}")[0] == 0
    assert implementation.calls[1][1] == {"resume": False}


def test_what_the_system_says_of_a_file_is_told_without_its_number(monkeypatch, capsys, tmp_path):
    def read(name):
        (tmp_path / name).read_text()

    for name, said in ((".", "Is a directory"), ("gone", "No such file or directory")):
        module = types.SimpleNamespace(run=lambda *_, name=name, **__: read(name))
        monkeypatch.setattr(cli.importlib, "import_module", lambda _, module=module: module)
        status, _, err = run(capsys, "rl", "--config", RL)
        assert status == 2 and err == f"pixel-reasoner: error: {tmp_path / name}: {said}\n"


def test_settings_are_checked_without_a_run(implementation, capsys):
    status, out, err = run(capsys, "rl", "--config", "rl_qwen2_5_vl_7b", "--check", "--config.train.steps=5")
    assert (status, out, err) == (0, "rl_qwen2_5_vl_7b: every setting is in order\n", "")
    assert not implementation.calls


def test_quickstart_needs_no_config(implementation, capsys):
    assert run(capsys, "quickstart", "--config.seed=3")[0] == 0
    ((config,), options) = implementation.calls[0]
    assert config.seed == 3 and options == {} and config.keys() == load_config("quickstart").keys()


def test_other_commands_parse_their_own_options(implementation, capsys):
    assert run(capsys, "generate", "--model", "somewhere", "--question", "?")[0] == 0
    ((args,), _) = implementation.calls[0]
    assert args.model == "somewhere"


@pytest.mark.parametrize(
    "argv,message",
    [
        ((), "COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("rl",), "--config"),
        (("evaluat", "--model", "x"), "invalid choice: 'evaluat'; did you mean evaluate?"),
        (("rl", "--config", RL, "--resum"), "unrecognized arguments: --resum; did you mean --resume?"),
        (
            ("rl", "--config", RL, "--data.path=x"),
            "--data.path; settings are given as --config.KEY=VALUE: --config.data.path",
        ),
        (("rl", "--confg", RL), "unrecognized arguments: --confg; did you mean --config?"),
        (("generate", "--modle=x", "--question", "?"), "unrecognized arguments: --modle; did you mean --model?"),
        (("generate", *ASKED, "--xyzzy"), "unrecognized arguments: --xyzzy"),
        (("rl", "--config", RL, "--check", "--config.optimizer.b1=1.5"), "config.optimizer.b1 is 1.5: it must be"),
        (("rl", "--config", RL, "--config.optimizer.learnig_rate=1"), "did you mean config.optimizer.learning_rate?"),
        (("rl", "--config", RL, "--config.seed"), "--config.seed needs a value"),
        (("rl", "--config", "configs/rl_qwen.py"), "there is no config 'configs/rl_qwen.py'; did you mean rl_"),
        (("sft", "--config", RL), "is it a config of `rl`?"),
        (("generate", *ASKED, "--config.seed=1"), "generate has no config"),
    ],
)
def test_mistakes_are_one_message_and_exit_2(argv, message, implementation, capsys):
    status, _, err = run(capsys, *argv)
    assert status == 2 and message in err and "Traceback" not in err
    assert not implementation.calls


def test_mistakes_and_errors_of_the_system_are_one_message_and_bugs_are_not(implementation, capsys, tmp_path):
    def missing(args):
        (tmp_path / "absent").read_text()

    def mistaken(args):
        raise UserError("--question is in no known language")

    def bug(args):
        np.zeros(6).reshape(4)  # a ValueError whose innermost frame is this project's own

    def lost(args):
        raise ConnectionResetError(104, "Connection reset by peer")  # the system's too, but about no file

    for run_it, message in ((missing, str(tmp_path / "absent")), (mistaken, "in no known language")):
        implementation.run = run_it
        status, _, err = run(capsys, "generate", *ASKED)
        assert status == 2 and message in err and len(err.splitlines()) == 1
        with pytest.raises((UserError, FileNotFoundError)):  # with its traceback
            run(capsys, "--debug", "generate", *ASKED)
        with pytest.raises((UserError, FileNotFoundError)):
            run(capsys, "generate", *ASKED, "--debug")
    for run_it, kind in ((bug, ValueError), (lost, ConnectionResetError)):
        implementation.run = run_it
        with pytest.raises(kind):
            run(capsys, "generate", *ASKED)

    def interrupt(args):
        raise KeyboardInterrupt

    implementation.run = interrupt
    assert run(capsys, "generate", *ASKED)[0] == 130


def test_the_installed_command_finds_the_configs_anywhere(tmp_path):
    """Help and mistakes in options come without importing JAX."""
    program = (
        "import sys; from pixel_reasoner_jax.commands.cli import main; status = main();"
        " assert 'jax' not in sys.modules; sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "rl", "--config", "rl_qwen2_5_vl_7b", "--config.sed=1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert (result.returncode, result.stderr) == (
        2,
        "pixel-reasoner: error: unknown key config.sed; did you mean config.seed?\n",
    )


@pytest.mark.parametrize("name", ["generate", "evaluate", "convert", "export"])
def test_an_unknown_type_of_parameters_is_named_before_anything_is_read(name, capsys):
    status, _, err = run(capsys, name, "--dtype", "float23")
    assert status == 2 and "float23" in err and "bfloat16" in err
