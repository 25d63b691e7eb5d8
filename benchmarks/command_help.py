"""How long `--help` of every command takes beyond Python's own start: python -m benchmarks.command_help [--json]

Each command and `python -c pass` are timed in turn, so that a machine that slows down slows both; a figure is the
median of the differences.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from pixel_reasoner_jax.commands.cli import COMMANDS

AIM = 0.5  # seconds at most


def seconds(*arguments: str) -> float:
    """Of a fresh Python process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def beyond_start(command: str, runs: int) -> float:
    """Median over so many pairs of runs: seconds of `command --help` less those of `python -c pass`."""
    pairs = ((seconds("-c", "pass"), help_seconds(command)) for _ in range(runs))
    return statistics.median(shown - start for start, shown in pairs)


def help_seconds(command: str) -> float:
    """Of `pixel-reasoner COMMAND --help`."""
    return seconds("-m", "pixel_reasoner_jax.commands.cli", command, "--help")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="pairs for each command (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a last line for programs")
    args = parser.parse_args()
    help_seconds("rl")  # compiles the modules and fills the system's cache of files
    figures = {command: beyond_start(command, args.runs) for command in COMMANDS}
    print(f"{'':14}{'seconds':>9}   aim: {AIM} at most")
    for command, value in figures.items():
        print(f"{command:14}{value:9.3f}")
    if args.json:
        print(json.dumps({"seconds": figures, "aim": AIM}))


if __name__ == "__main__":
    main()
