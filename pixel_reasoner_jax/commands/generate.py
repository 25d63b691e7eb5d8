"""`pixel-reasoner generate`: one question about an image or a video, answered before one's eyes; or a table of them."""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import sys
from typing import Any

import rich.console
import rich.text

from pixel_reasoner_jax.commands import generate_table
from pixel_reasoner_jax.commands.options import GENERATED
from pixel_reasoner_jax.commands.served import opened_policy, temperature_of
from pixel_reasoner_jax.endpoint import EndpointError
from pixel_reasoner_jax.errors import MissingFileError, UserError
from pixel_reasoner_jax.files import as_path, check_output, write_text
from pixel_reasoner_jax.operations import allow_own
from pixel_reasoner_jax.processing import load_image
from pixel_reasoner_jax.report.page import trajectories_page
from pixel_reasoner_jax.report.text import arguments_text, printable, sizes_text
from pixel_reasoner_jax.report.trajectory_json import trajectory_dict
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.rollout.dialogue import EpisodeEnd, Event, OperationRun, TurnText
from pixel_reasoner_jax.rollout.served import UnansweredError
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory

SHOWN_TOKENS = 8  # written before they are shown: fewer look livelier, more are faster


def run(args: argparse.Namespace) -> list[Trajectory] | dict[str, Any]:
    """Answers one question, shows each response as it grows, and saves all as a page and as JSON.

    With `--queries` it answers a table of questions instead; see `generate_table`.

    Raises:
      UserError: options that make no question, one file of two, or a file that cannot be written; as MediaError an
        image or video that cannot be read; as MissingFileError no such model directory, or one with a file missing.
    """
    check_sampling(args)
    allow_own(args.own)
    if args.queries:
        return generate_table.run(args)
    query = build_query(args)
    html, out = outputs(args, query["id"])
    for path in (html, out):
        check_output(path)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows `?`
    printer = Printer(rich.console.Console(highlight=False), args.samples)
    options = dict(samples=args.samples, seed=args.seed, temperature=temperature_of(args), on_event=printer)
    with opened_policy(args, decode_steps=SHOWN_TOKENS) as (policy, _):
        try:
            [group] = policy.rollout([query], **options)
        except UnansweredError as error:  # it says how a run goes on, but of one question nothing is kept
            raise EndpointError(f"the endpoint gave no answer: {next(iter(error.failures.values()))}") from None
    save(group, html, out, args.model)
    return group


def check_sampling(args: argparse.Namespace) -> None:
    """Raises UserError for numbers that are out of range."""
    if args.samples < 1:
        raise UserError(f"--samples must be at least 1, got {args.samples}")
    if args.temperature is not None and args.temperature < 0:
        raise UserError(f"--temperature must be 0 (greedy) or more, got {args.temperature}")
    if args.max_tokens is not None and args.max_tokens < 1:
        raise UserError(f"--max-tokens must be at least 1, got {args.max_tokens}")
    if args.slots < 1:
        raise UserError(f"--slots must be at least 1, got {args.slots}")


def build_query(args: argparse.Namespace) -> dict[str, Any]:
    """The query that the options ask; the images are read here, before a large model is."""
    if args.question is None:
        raise UserError("give --question TEXT, or --queries TABLE with many of them")
    if not args.question.strip():
        raise UserError("--question is empty: say what to ask")
    if bool(args.image) == bool(args.video):
        given = "both were given" if args.image else "neither was given"
        raise UserError(f"give either --image or --video; {given}")
    query: dict[str, Any] = {"question": args.question, "answer": ""}
    if args.video:
        if not as_path(args.video).is_file():
            raise MissingFileError(f"{args.video}: no such video")
        return {**query, "id": as_path(args.video).name, "video": args.video}
    return {**query, "id": as_path(args.image[0]).name, "images": [load_image(path) for path in args.image]}


def outputs(args: argparse.Namespace, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Where the page and the JSON go: where the options say, else beside each other, else new files in `GENERATED`."""
    if args.html or args.out:
        html = as_path(args.html or as_path(args.out).with_suffix(".html"))
        out = as_path(args.out or html.with_suffix(".json"))
    else:
        first = as_path(GENERATED) / pathlib.PurePath(name).stem
        stems = itertools.chain([first], (first.with_name(f"{first.name}-{n}") for n in itertools.count(2)))
        pairs = ((stem.with_name(f"{stem.name}.html"), stem.with_name(f"{stem.name}.json")) for stem in stems)
        html, out = next(pair for pair in pairs if not any(path.exists() for path in pair))
    if html.resolve() == out.resolve():
        raise UserError(
            f"the page and the JSON cannot both be {out}: name one of them with --html, the other with --out"
        )
    return html, out


class Printer:
    """Shows events as they come. One response appears as it is written; of several, each turn when it is complete.

    What a model writes reaches the terminal through `printable` alone, and never as rich's markup.
    """

    def __init__(self, console: rich.console.Console, samples: int = 1):
        self._console = console
        self._samples = samples
        self._texts: dict[int, str] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case TurnText():
                if self._samples == 1:
                    self._show(event.text, end="")
                self._texts[event.sample] = self._texts.get(event.sample, "") + event.text
            case OperationRun():
                self._end_turn(event.sample)
                self._operation(event.record)
            case EpisodeEnd():
                self._end_turn(event.sample)
                self._answer(event.trajectory)

    def _end_turn(self, sample: int) -> None:
        text = self._texts.pop(sample, "")
        if self._samples > 1:
            self._show(f"response {sample + 1}", "bold")
            self._show(text)
        elif not text.endswith("\n"):
            self._show("")

    def _operation(self, record: OperationRecord) -> None:
        call = f"{record.name or 'unreadable call'} {arguments_text(record)}".strip()
        if record.succeeded:
            self._show(f"→ {call}: {sizes_text(record.sizes)}", "cyan")
        else:
            self._show(f"✗ {call}: {record.error.strip()}", "red")
        self._show("")

    def _answer(self, trajectory: Trajectory) -> None:
        answer = extract_answer(trajectory.response)
        written = "unknown" if trajectory.sampled is None else trajectory.sampled
        self._show(f"answer: {answer}" if answer else "no answer in a box", "bold green" if answer else "yellow")
        ended = "" if trajectory.ended in (Ended.ANSWER, None) else f", stopped by {trajectory.ended.value}"
        self._show(f"operations: {len(trajectory.operations)}, tokens written: {written}{ended}\n", "dim")

    def _show(self, text: str, style: str = "", end: str = "\n") -> None:
        self._console.print(rich.text.Text(printable(text), style), end=end, soft_wrap=True)


def save(trajectories: list[Trajectory], html: pathlib.Path, out: pathlib.Path, model: str | None) -> None:
    """Writes the page and the JSON file, and prints where; the model's folder has the tokenizer."""
    content = {"trajectories": [trajectory_dict(trajectory) for trajectory in trajectories]}
    print(f"page: {write_text(html, trajectories_page(trajectories[0].question, trajectories, model))}")
    print(f"trajectories: {write_text(out, json.dumps(content, indent=2, allow_nan=False))}")
