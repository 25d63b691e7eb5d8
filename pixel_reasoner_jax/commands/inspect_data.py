"""`pixel-reasoner inspect`: what a data set holds, and some of it with the mask in colors."""

from __future__ import annotations

import argparse
import json

import numpy as np
import rich.console

from data_pipeline.draft import Draft
from data_pipeline.exchange.table_source import TableSource, open_records
from data_pipeline.inspection.page import inspection_page
from data_pipeline.inspection.summary import summarize
from data_pipeline.inspection.terminal import show_legend, show_summary, show_trajectory
from data_pipeline.records import RecordError, RecordSource
from pixel_reasoner_jax.checkpoint import check_is_no_run
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import check_output, write_text
from pixel_reasoner_jax.processing import Processor


def run(args: argparse.Namespace) -> None:
    if args.model:
        check_is_no_run(args.model)
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; it cannot be negative")
    if args.samples < 0:
        raise UserError(f"--samples is {args.samples}; it cannot be negative")
    if args.html:
        check_output(args.html)
    source = open_records(args.dataset, unique=True)
    figures = summarize(source, Processor.from_pretrained(args.model) if args.model else None)
    samples = _samples(source, args.samples, args.seed)
    if args.json:
        print(json.dumps(figures, indent=2, allow_nan=False))
    else:
        console = rich.console.Console(highlight=False)
        show_summary(console, figures)
        console.print()
        if samples:
            show_legend(console)
        for draft in samples:
            show_trajectory(console, draft)
    if args.html:
        page = write_text(args.html, inspection_page(figures, samples, args.model))
        if not args.json:
            print(f"page: {page}")


def _samples(source: RecordSource | TableSource, count: int, seed: int) -> list[Draft]:
    """Trajectories drawn at random, of those that can be read."""
    if source.kind != "trajectory":
        return []
    drawn: list[Draft] = []
    for index in np.random.default_rng(seed).permutation(len(source)):
        if len(drawn) == count:
            break
        try:
            drawn.append(source[index])
        except RecordError:
            continue
    return drawn
