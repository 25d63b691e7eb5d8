"""The `pixel-reasoner` command: what it can do.

A command's module is imported only when that command runs, so that help and mistakes in options are quick.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType

from pixel_reasoner_jax import __version__
from pixel_reasoner_jax.commands import data_options, options
from pixel_reasoner_jax.commands.ending import end_in_one_line, say_error
from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.errors import RunStopped
from pixel_reasoner_jax.signals import starting

DEBUG, RESUME, RESUME_FROM = "--debug", "--resume", "--resume-from"

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
      module: what implements it: `run(config)`, or `run(config, resume=...)` if it resumes, for experiments; else
        `run(args)`, or `run(args, overrides)` if it is `about_config`.
      add_options: adds what it takes to its parser; None for experiments, which all take the same.
      reference: name of the packaged config that knows every key of its experiments; None for a command without one.
      resumes: whether it can go on from a checkpoint.
      goes_on: whether it goes on where it was when it is called again, with --resume if it `resumes`.
      goes_on_with: the option without which it begins anew all the same.
      several_processes: it can run as one of several processes, and is no experiment.
      about_config: it reads the config of another command itself, and settings can be overridden for it too.
      example: overrides to show in its help.
    """

    summary: str
    module: str
    add_options: Callable[[argparse.ArgumentParser], None] | None = None
    reference: str | None = None
    resumes: bool = False
    goes_on: bool = False
    goes_on_with: str | None = None
    several_processes: bool = False
    about_config: bool = False
    example: str = "--config.optimizer.learning_rate=1e-6 --config.train.batch_size=64"


COMMANDS = {
    "quickstart": Command(
        "the whole method in miniature on this machine, with a report",
        "pixel_reasoner_jax.commands.quickstart",
        reference="quickstart",
        goes_on=True,
        example="--config.seed=1 --config.rl.curiosity.alpha=0.5",
    ),
    "synthesize": Command(
        "trajectories for phase one from annotated images and videos",
        "pixel_reasoner_jax.commands.synthesize",
        data_options.synthesize,
        goes_on=True,
    ),
    "sft": Command(
        "phase one: instruction tuning on synthesized trajectories",
        "pixel_reasoner_jax.training.sft",
        reference="sft_qwen2_5_vl_7b",
        resumes=True,
        goes_on=True,
    ),
    "rl": Command(
        "phase two: curiosity-driven GRPO",
        "pixel_reasoner_jax.training.rl",
        reference="rl_qwen2_5_vl_7b",
        resumes=True,
        goes_on=True,
    ),
    "plan": Command(
        "whether a run fits given chips, and what it takes there: nothing runs, no TPU is needed",
        "pixel_reasoner_jax.commands.plan",
        options.plan,
        about_config=True,
    ),
    "check": Command(
        "whether rollout and trainer agree on a checkpoint, before it is trained",
        "pixel_reasoner_jax.commands.check",
        options.check,
    ),
    "evaluate": Command(
        "a model on benchmarks, one's own questions or the quickstart's world: scores with intervals",
        "pixel_reasoner_jax.commands.evaluate",
        options.evaluate,
        several_processes=True,
        goes_on=True,
        goes_on_with="--on",
    ),
    "compare": Command(
        "evaluations of the same items: differences with intervals, and items that flipped",
        "pixel_reasoner_jax.commands.compare",
        options.compare,
    ),
    "generate": Command(
        "answer one question about an image or a video",
        "pixel_reasoner_jax.commands.generate",
        options.generate,
        goes_on=True,
        goes_on_with="--queries",
    ),
    "serve": Command(
        "models behind chat completions of OpenAI's form, operations inside, and a page to talk to them",
        "pixel_reasoner_jax.commands.serve",
        options.serve,
    ),
    "convert": Command(
        "a Hugging Face checkpoint to a sharded one of ours", "pixel_reasoner_jax.commands.convert", options.convert
    ),
    "export": Command(
        "a checkpoint of a run to the Hugging Face form", "pixel_reasoner_jax.commands.export", options.export
    ),
    "inspect": Command(
        "what a data set holds, with the mask in colors",
        "pixel_reasoner_jax.commands.inspect_data",
        data_options.inspect,
    ),
    "view": Command(
        "evaluations, runs, data sets and answers in a browser, side by side; --live follows a run",
        "pixel_reasoner_jax.commands.view",
        options.view,
    ),
    "import-data": Command(
        "tables of trajectories or queries, one's own or released, to a data set",
        "pixel_reasoner_jax.commands.import_data",
        data_options.import_data,
    ),
    "export-data": Command(
        "a data set to JSON lines or parquet", "pixel_reasoner_jax.commands.export_data", data_options.export_data
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    `--debug`, anywhere among the arguments, shows the traceback of every error.

    Returns:
      The exit status; see `end_in_one_line`.
    """
    is_program = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in argv
    argv = [argument for argument in argv if argument != DEBUG]
    again = _command_to_go_on(argv)
    return end_in_one_line(lambda: _main(argv, debug, again), again, debug, is_program)


def _command_to_go_on(argv: list[str]) -> str:
    """The command that goes on where one with these arguments has stopped; "" for commands that begin anew."""
    command = COMMANDS.get(argv[0]) if argv else None
    if command is None or not command.goes_on:
        return ""
    if command.goes_on_with and command.goes_on_with not in {argument.partition("=")[0] for argument in argv}:
        return ""
    rest, arguments = [], iter(argv)
    for argument in arguments:
        name = argument.partition("=")[0]
        if name == RESUME_FROM and name == argument:
            next(arguments, None)
        elif name not in (RESUME, RESUME_FROM):
            rest.append(argument)
    return shlex.join(["pixel-reasoner", *rest, *([RESUME] if command.resumes else [])])


def _main(argv: list[str], debug: bool, again: str) -> int:
    run, args = parse(argv, debug, again)
    run(args)
    return 0


def parse(
    argv: list[str], debug: bool = False, again: str = ""
) -> tuple[Callable[[argparse.Namespace], object], argparse.Namespace]:
    """Reads the arguments of the program; nothing of the command is imported or run.

    Args:
      argv: the arguments, without `--debug`.
      debug: raise every error of the command.
      again: the command that goes on where this one stops.

    Returns:
      What runs the command, and the options to call it with.

    Raises:
      SystemExit: a mistake in the options, which is on standard error, or `--help`.
      ConfigError: settings for a command without a config.
    """
    argv, overrides = _split_overrides(argv)
    parser = argparse.ArgumentParser(
        "pixel-reasoner",
        description="Qwen2.5-VL that zooms and selects frames, trained with curiosity-driven RL.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(DEBUG, action="store_true", help="show the traceback of every error")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    chosen = next((argument for argument in argv if not argument.startswith("-")), None)
    if chosen and chosen not in COMMANDS and (close := difflib.get_close_matches(chosen, COMMANDS, n=1)):
        parser.error(f"argument COMMAND: invalid choice: {chosen!r}; did you mean {close[0]}?")
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
            run = _configure(subparser, command, overrides, debug, again)
            _check_options(subparser, argv, bool(command.reference or command.about_config))
    args = parser.parse_args(argv)
    if overrides and not (COMMANDS[args.command].reference or COMMANDS[args.command].about_config):
        raise ConfigError(f"{args.command} has no config: --config.{overrides[0][0]} does not apply")
    return run, args


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command by itself, which says all that the command takes."""
    parser = argparse.ArgumentParser(f"pixel-reasoner {name}", allow_abbrev=False)
    _configure(parser, COMMANDS[name], [], False, "")
    return parser


def _check_options(parser: argparse.ArgumentParser, argv: list[str], has_config: bool) -> None:
    """Ends with what the first option that the command does not have may have meant: a setting, or the nearest one."""
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    known = [*options, DEBUG, "--version"]
    for argument in argv:
        name = argument.partition("=")[0]
        if name == "--":
            return
        if has_config and name.startswith("--") and name not in known and "." in name:
            setting = f"--config.{name.removeprefix('--')}"
            parser.error(f"unrecognized arguments: {name}; settings are given as --config.KEY=VALUE: {setting}")
        close = difflib.get_close_matches(name, known, n=1) if name.startswith("--") and name not in known else []
        if close:
            parser.error(f"unrecognized arguments: {name}; did you mean {close[0]}?")


def _configure(
    parser: argparse.ArgumentParser, command: Command, overrides: list[tuple[str, str]], debug: bool, again: str
) -> Callable[[argparse.Namespace], object]:
    """Adds a command's options; returns what runs it."""
    if command.add_options is not None:
        command.add_options(parser)
        more = [overrides] if command.about_config else []

        def run_options(args: argparse.Namespace) -> object:
            module = importlib.import_module(command.module)
            if command.several_processes and _is_one_of_several(args):
                return _run_joined(module, args, debug, again, args)
            return _run(module, args, *more)

        return run_options
    options.experiment(parser, command.reference.split("_")[0], command.resumes)
    parser.epilog = OVERRIDES.format(example=command.example)

    def run(args: argparse.Namespace) -> object:
        with starting() if command.resumes else contextlib.nullcontext():  # imports take seconds
            config = load_config(args.config, overrides, command.reference)
            if args.check:
                print(f"{args.config}: every setting is in order")
                return None
            module = importlib.import_module(command.module)
        if not command.resumes:
            return _run(module, config)
        resume = args.resume_from or args.resume
        if not _is_one_of_several(args):
            return _run(module, config, resume=resume)
        return _run_joined(module, args, debug, again, config, resume=resume)

    return run


def _is_one_of_several(args: argparse.Namespace) -> bool:
    """Whether the options of `options._processes` ask to join other processes."""
    return args.distributed or any(value is not None for value in (args.coordinator, args.processes, args.process))


def _run(module: ModuleType, *args, **options) -> object:
    from pixel_reasoner_jax.compilation import enable_cache

    enable_cache()
    return module.run(*args, **options)


def _run_joined(
    module: ModuleType, args: argparse.Namespace, debug: bool, again: str, *given: object, **options: object
) -> object:
    """Runs as one of several processes: where one fails, all end."""
    from pixel_reasoner_jax.parallel import join

    join(args.coordinator, args.processes, args.process)
    try:
        return _run(module, *given, **options)
    except RunStopped:  # in all of them, which end in the usual way
        raise
    except BaseException as error:
        if debug:
            traceback.print_exception(error)
        status = say_error(error, again)
        if status == 1:  # JAX has no one class of error for a connection that broke
            how = " with --resume" if "resume" in options else ""
            print(
                "pixel-reasoner: error: this process ends, and with it the others of its run. If the error is a lost"
                f" connection, another one failed first, and its output says why. Start all of them again{how}",
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


if __name__ == "__main__":
    sys.exit(main())
