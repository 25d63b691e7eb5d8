"""The `pixel-reasoner` command: what it can do, its options, and errors in one line.

A command's module is imported only when that command runs, so that help and mistakes in options are quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType

from ml_collections import ConfigDict

from pixel_reasoner_jax import __version__
from pixel_reasoner_jax.config import ConfigError, config_names, load_config

PACKAGES = tuple(pathlib.Path(__file__).resolve().parents[1] / name for name in ("pixel_reasoner_jax", "data_pipeline"))

OVERRIDES = """\
Every setting of the experiment file can be overridden, for example
  {example}
An unknown key is an error that names the nearest one, or those there are. The resolved config is saved in the working
directory.
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
      summary: its line in the list of commands.
      module: what implements it: `run(config)` or `run(config, resume=...)` for experiments, else
        `add_arguments(parser)` and `run(args)`, or `run(args, overrides)` if it is `about_config`.
      reference: name of the packaged config that knows every key of its experiments; None for a command without one.
      resumes: whether it can go on from a checkpoint.
      about_config: it reads the config of another command itself, and settings can be overridden for it too.
      example: overrides to show in its help.
    """

    summary: str
    module: str
    reference: str | None = None
    resumes: bool = False
    about_config: bool = False
    example: str = "--config.optimizer.learning_rate=1e-6 --config.train.batch_size=64"


COMMANDS = {
    "quickstart": Command(
        "the whole method in miniature on this machine, with a report",
        "pixel_reasoner_jax.quickstart",
        "quickstart",
        example="--config.seed=1 --config.rl.curiosity.alpha=0.5",
    ),
    "synthesize": Command(
        "trajectories for phase one from annotated images and videos", "data_pipeline.synthesis.command"
    ),
    "sft": Command(
        "phase one: instruction tuning on synthesized trajectories",
        "pixel_reasoner_jax.training.sft",
        "sft_qwen2_5_vl_7b",
        resumes=True,
    ),
    "rl": Command(
        "phase two: curiosity-driven GRPO", "pixel_reasoner_jax.training.rl", "rl_qwen2_5_vl_7b", resumes=True
    ),
    "plan": Command(
        "whether a run fits given chips, and what it takes there: nothing runs, no TPU is needed",
        "pixel_reasoner_jax.plan.command",
        about_config=True,
    ),
    "evaluate": Command("accuracy and use of operations of a model", "pixel_reasoner_jax.evaluation.run"),
    "generate": Command("answer one question about an image or a video", "pixel_reasoner_jax.generate"),
    "convert": Command("a Hugging Face checkpoint to a sharded one of ours", "pixel_reasoner_jax.convert"),
    "export": Command("a checkpoint of a run to the Hugging Face form", "pixel_reasoner_jax.export"),
    "inspect": Command("what a data set holds, with the mask in colors", "data_pipeline.inspection.command"),
    "import-data": Command("released trajectories or queries to a data set", "data_pipeline.exchange.importing"),
    "export-data": Command("a data set to JSON lines or parquet", "data_pipeline.exchange.exporting"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 2 for a mistake of the user's, 130 if interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # no PyTorch, which is not needed
    try:
        return _main(argv)
    except (KeyboardInterrupt, ValueError, OSError) as error:
        if not (isinstance(error, KeyboardInterrupt) or _is_users(error)):
            raise
        return _report(error)


def _report(error: BaseException) -> int:
    """Says what went wrong; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        print("pixel-reasoner: interrupted", file=sys.stderr)
        return 130
    if isinstance(error, ValueError | OSError) and _is_users(error):
        print(f"pixel-reasoner: error: {error}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1


def _main(argv: list[str]) -> int:
    argv, overrides = _split_overrides(argv)
    parser = argparse.ArgumentParser(
        "pixel-reasoner",
        description="Qwen2.5-VL that zooms and selects frames, trained with curiosity-driven RL.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    chosen = next((argument for argument in argv if not argument.startswith("-")), None)
    run: Callable[[argparse.Namespace], object] | None = None
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == chosen:
            run = _configure(subparser, command, overrides)
    args = parser.parse_args(argv)
    if overrides and not (COMMANDS[args.command].reference or COMMANDS[args.command].about_config):
        raise ConfigError(f"{args.command} has no config: --config.{overrides[0][0]} does not apply")
    run(args)
    return 0


def _configure(
    parser: argparse.ArgumentParser, command: Command, overrides: list[tuple[str, str]]
) -> Callable[[argparse.Namespace], object]:
    """Adds a command's options; returns what runs it."""
    if command.reference is None:
        module = importlib.import_module(command.module)
        module.add_arguments(parser)
        return lambda args: _run(module, args, *([overrides] if command.about_config else []))
    names = config_names(command.reference.split("_")[0])
    default = names[0] if len(names) == 1 else None
    parser.add_argument(
        "--config",
        metavar="FILE",
        required=default is None,
        default=default,
        help=f"experiment file (default: {default})" if default else f"experiment file, such as {', '.join(names)}",
    )
    if command.resumes:
        parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in config.workdir")
        several = parser.add_argument_group("several processes", "started with the same command, on one or more hosts")
        several.add_argument(
            "--distributed", action="store_true", help="join the others, as the TPU slice, Slurm or Kubernetes says"
        )
        several.add_argument("--coordinator", metavar="HOST:PORT", help="where none of them does: of process 0")
        several.add_argument("--processes", type=int, metavar="N", help="how many there are")
        several.add_argument("--process", type=int, metavar="NUMBER", help="which of them this is, from 0")
    parser.epilog = OVERRIDES.format(example=command.example)

    def run(args: argparse.Namespace) -> object:
        config = load_config(args.config, overrides, command.reference)
        if not command.resumes:
            return _run(importlib.import_module(command.module), config)
        identity = (args.coordinator, args.processes, args.process)
        if not args.distributed and all(value is None for value in identity):
            return _run(importlib.import_module(command.module), config, resume=args.resume)
        return _run_joined(importlib.import_module(command.module), config, args.resume, identity)

    return run


def _run(module: ModuleType, *args, **options) -> object:
    from pixel_reasoner_jax.compilation import enable_cache

    enable_cache()
    return module.run(*args, **options)


def _run_joined(module: ModuleType, config: ConfigDict, resume: bool, identity: tuple) -> object:
    """Runs as one of several processes: where one fails, all end."""
    from pixel_reasoner_jax.parallel import join

    join(*identity)
    try:
        return _run(module, config, resume=resume)
    except BaseException as error:
        status = _report(error)
        if status == 1:  # JAX has no one class of error for a connection that broke
            print(
                "pixel-reasoner: error: this process ends, and with it the others of its run. If the error is a lost"
                " connection, another one failed first, and its output says why. Start all of them again with --resume",
                file=sys.stderr,
            )
        # Leaving in the usual way would wait for the others, which wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _split_overrides(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.key=value` and `--config.key value` out of the arguments."""
    rest, overrides, arguments = [], [], iter(argv)
    for argument in arguments:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(arguments, None)
            if value is None:
                raise ConfigError(f"{argument} needs a value: {argument}=VALUE")
        overrides.append((key, value))
    return rest, overrides


def _is_users(error: Exception) -> bool:
    """Whether an error is a mistake of the user's, which this project's own checks raise, or the system's about a file.

    A ValueError from inside a library is a bug here, and its traceback is wanted.
    """
    if isinstance(error, OSError):
        return error.filename is not None or not error.errno
    frames = traceback.extract_tb(error.__traceback__)
    return any(package in pathlib.Path(frames[-1].filename).resolve().parents for package in PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
