"""The benchmark of the commands' help times every command against Python's own start."""

import json
import sys

from benchmarks import command_help
from pixel_reasoner_jax.commands.cli import COMMANDS


def test_every_command_is_timed(monkeypatch, capsys):
    calls = []

    def seconds(*arguments):
        calls.append(arguments)
        return 0.02 if arguments == ("-c", "pass") else 0.25

    monkeypatch.setattr(command_help, "seconds", seconds)
    monkeypatch.setattr(sys, "argv", ["command_help", "--runs", "3", "--json"])
    command_help.main()
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[1:-1]] == [[name, "0.230"] for name in COMMANDS]
    figures = json.loads(out[-1])["seconds"]
    assert figures.keys() == COMMANDS.keys() and all(abs(value - 0.23) < 1e-9 for value in figures.values())
    helps = [call for call in calls if call != ("-c", "pass")]
    assert {call[-2:] for call in helps} == {(name, "--help") for name in COMMANDS}
    assert calls.count(("-c", "pass")) == len(helps) - 1 == 3 * len(COMMANDS)
