"""`pixel-reasoner view`: evaluations, runs, data sets and answers, looked at in a browser."""

from __future__ import annotations

import argparse
import pathlib
import sys

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, is_remote
from pixel_reasoner_jax.report.text import counted, printable
from pixel_reasoner_jax.viewer.build import PAGE, Built, build, check_directory
from pixel_reasoner_jax.viewer.sources import Found, find_sources


def run(args: argparse.Namespace) -> None:
    """Writes a view into a folder; with `--live` serves one that follows a run until Ctrl-C.

    Raises:
      UserError: there is nothing to show, or the options do not go together.
    """
    if args.limit < 1:
        raise UserError(f"--limit must be at least 1, got {args.limit}")
    if args.live:
        from pixel_reasoner_jax.viewer.live import serve

        if args.out or args.directories:
            raise UserError("--live RUN serves a page of one run: give it alone, without DIR and --out")
        serve(args.live, args.model, args.port)
        return
    if not args.directories:
        raise UserError("give at least one DIR to view, or --live RUN")
    if not args.out:
        raise UserError("give --out DIR, a new folder for the page and its images")
    if is_remote(args.out):
        raise UserError(f"--out {args.out} is in an object store: give a folder of this machine")
    sources, out = find_sources(args.directories), pathlib.Path(as_path(args.out))
    check_directory(out)
    say(sources, build(sources, out, args.model, args.limit))
    print(f"page: {out / PAGE}")


def say(sources: list[Found], built: Built) -> None:
    """What is shown of each source, and on standard error what is not."""
    for found, count, skipped in zip(sources, built.counts, built.skipped, strict=True):
        why = (
            " (stored by train.log_samples of rl, and by evaluation.on)"
            if found.kind == "run" and not count and not skipped.count
            else ""
        )
        print(f"{printable(found.name)}: {found.kind}, {counted(count, 'trajectory', 'trajectories')}{why}")
        for line in skipped.table():
            text = f"skipped {line['count']:,}: {line['reason']} (first: {line['first']})"
            print(f"warning: {printable(found.name)}: {printable(text)}", file=sys.stderr)
