"""`pixel-reasoner synthesize`: annotated images and videos to trajectories on disk."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from data_pipeline.sources import KINDS, open_source
from data_pipeline.synthesis.captioner import Captioner, TemplateCaptioner
from data_pipeline.synthesis.endpoint import Endpoint, EndpointSettings
from data_pipeline.synthesis.model_captioner import ModelCaptioner, load_prompts
from data_pipeline.synthesis.run import REJECTED, SUMMARY, Recipe, Summary, Synthesis
from data_pipeline.synthesis.sheet import contact_sheet
from data_pipeline.synthesis.synthesizer import BudgetMedia
from data_pipeline.synthesis.templates import IMAGE_MIX, TEMPLATES, VIDEO_MIX
from pixel_reasoner_jax.evaluation.text import plain_table
from pixel_reasoner_jax.files import as_path, is_remote, write_text
from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.processing import Budgets, Processor

SHEET = "contact_sheet.html"
LOCK = ".synthesis.lock"

DEFAULTS = EndpointSettings(model="gpt-4o")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pixel-reasoner synthesize`."""
    parser.add_argument(
        "--source",
        required=True,
        nargs="+",
        action="extend",
        metavar="KIND:PATH",
        help="where the seeds come from; of several, each in turn",
    )
    parser.add_argument("--count", type=int, required=True, metavar="N", help="trajectories wanted")
    parser.add_argument("--out", required=True, metavar="DIR", help="the data set; an unfinished one goes on")
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads (default: %(default)s)")
    parser.add_argument(
        "--shard-size", type=int, default=128, metavar="N", help="seeds written at once (default: %(default)s)"
    )
    parser.add_argument(
        "--padding", type=float, default=0.1, help="of the crop operation, as in training (default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="checkpoint directory whose budgets of pixels are taken; the released ones if not",
    )
    for name, mix in (("image", IMAGE_MIX), ("video", VIDEO_MIX)):
        parser.add_argument(
            f"--{name}-mix",
            type=_mix,
            default=mix,
            metavar="KIND=SHARE,...",
            help=f"kinds of trajectory for {name}s (default: the paper's)",
        )
    captions = parser.add_argument_group("captions", "who writes the text between the operations")
    captions.add_argument(
        "--captioner",
        choices=("template", "openai"),
        default="template",
        help="fixed phrases, or a model that sees, behind an OpenAI-compatible endpoint (default: %(default)s)",
    )
    captions.add_argument(
        "--caption-model", default=DEFAULTS.model, metavar="NAME", help="the model (default: %(default)s)"
    )
    captions.add_argument(
        "--base-url",
        metavar="URL",
        help="of another server than OpenAI's; the key is OPENAI_API_KEY's, if it needs one",
    )
    captions.add_argument("--prompts", metavar="DIR", help="files of prompts in place of ours")
    captions.add_argument("--temperature", type=float, default=DEFAULTS.temperature, help="default: %(default)s")
    captions.add_argument(
        "--max-tokens", type=int, default=DEFAULTS.max_tokens, metavar="N", help="of a passage (default: %(default)s)"
    )
    captions.add_argument(
        "--timeout", type=float, default=DEFAULTS.timeout, metavar="SECONDS", help="default: %(default)s"
    )
    captions.add_argument(
        "--attempts", type=int, default=DEFAULTS.attempts, metavar="N", help="of a request (default: %(default)s)"
    )
    captions.add_argument("--requests-per-minute", type=float, metavar="N", help="at most; no limit unless given")
    captions.add_argument(
        "--prices",
        type=_prices,
        default=(0.0, 0.0),
        metavar="PROMPT,COMPLETION",
        help="of a million tokens, to count what is spent",
    )
    captions.add_argument("--budget", type=float, metavar="AMOUNT", help="stop when this run has spent so much")
    captions.add_argument(
        "--cache", default=DEFAULTS.cache, metavar="DIR", help="of the model's answers (default: %(default)s)"
    )
    parser.epilog = "kinds of source:\n" + "\n".join(f"  {kind:20}{path}" for kind, (_, _, path) in KINDS.items())


def run(args: argparse.Namespace) -> Summary:
    """Synthesizes, and prints what came of it.

    Raises:
      ValueError: options that fit no synthesis, a source that cannot be read, a folder that holds another data set, an
        endpoint that cannot be used.
    """
    media = BudgetMedia(Processor.from_pretrained(args.model).budgets if args.model else Budgets())
    sources = {spec: open_source(spec) for spec in dict.fromkeys(args.source)}
    captioner, decides, endpoint = _captioner(args, media)
    recipe = Recipe(
        sources=sources,
        count=args.count,
        seed=args.seed,
        padding=args.padding,
        image_mix=args.image_mix,
        video_mix=args.video_mix,
        captioner={**decides, "budgets": dataclasses.asdict(media.budgets)},
        shard_size=args.shard_size,
    )
    out = as_path(args.out)
    complete = (out / SUMMARY).exists()
    try:
        with _locked(out), Progress("synthesis", args.count) as progress:
            synthesis = Synthesis(recipe, captioner, media, out, args.workers)
            summary = synthesis.run(lambda so_far: progress.update(so_far.count, **_figures(so_far)))
    finally:
        if endpoint is not None:
            endpoint.close()
            print(_paid(endpoint), file=sys.stderr)
    if complete:
        print(f"{out} is complete already", file=sys.stderr)
    sheet = write_text(out / SHEET, contact_sheet(out, media, seed=args.seed))
    print(report(summary, recipe))
    print(f"rejected: {out / REJECTED}\npage: {sheet}\ntrajectories: {out}")
    print(json.dumps(summary.to_json(), allow_nan=False))
    return summary


def report(summary: Summary, recipe: Recipe) -> str:
    """The tables: kinds of trajectory, sources, and what was put aside."""
    kinds = [(kind, summary.kinds[kind], summary.impossible[kind]) for kind in TEMPLATES if kind in _drawn(recipe)]
    rows = [["", "trajectories", "share", "impossible"]]
    rows += [[kind, f"{n:,}", f"{n / summary.count:.1%}", f"{given_up:,}"] for kind, n, given_up in kinds]
    tables = [plain_table([*rows, ["all", f"{summary.count:,}", "", f"{summary.impossible.total():,}"]])]
    if len(recipe.sources) > 1:
        tables.append(plain_table([["source", "trajectories"], *_counted(summary.sources)]))
    if summary.rejected:
        tables.append(plain_table([["rejected", "seeds"], *_counted(summary.rejected)]))
    if summary.count < recipe.count:
        tables.append(f"the sources have no more: {summary.count:,} of {recipe.count:,} trajectories wanted")
    if summary.spend.requests:
        tables.append(
            f"texts: {summary.spend.requests:,} answers, {summary.spend.prompt_tokens:,} tokens read,"
            f" {summary.spend.completion_tokens:,} written, cost {summary.spend.cost:.2f}"
        )
    return "\n\n".join(tables)


def _captioner(
    args: argparse.Namespace, media: BudgetMedia
) -> tuple[Callable[[], Captioner], dict[str, Any], Endpoint | None]:
    """What makes a captioner, what decides its text, and the endpoint it uses."""
    if args.captioner == "template":
        return TemplateCaptioner, {"kind": "template"}, None
    names = ("temperature", "max_tokens", "timeout", "attempts", "requests_per_minute", "base_url", "budget", "cache")
    settings = EndpointSettings(
        model=args.caption_model,
        prompt_price=args.prices[0],
        completion_price=args.prices[1],
        concurrency=args.workers,
        **{name: getattr(args, name) for name in names},
    )
    prompts, endpoint = load_prompts(args.prompts), Endpoint(settings)
    digest = hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()
    decides = {"kind": "openai", "prompts": digest}
    decides |= {name: getattr(settings, name) for name in ("model", "temperature", "max_tokens")}
    return functools.partial(ModelCaptioner, endpoint, prompts, media, args.padding), decides, endpoint


@contextmanager
def _locked(out: Any) -> Iterator[None]:
    """Keeps a second run out of the same folder; the lock goes with the process, however it ends."""
    if is_remote(out):
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is synthesizing into {out}") from None
        try:
            yield
        finally:
            (out / LOCK).unlink()


def _figures(summary: Summary) -> dict[str, float]:
    figures = {"rejected": summary.rejected.total()}
    return figures | ({"cost": summary.spend.cost} if summary.spend.cost else {})


def _paid(endpoint: Endpoint) -> str:
    spend = endpoint.spend
    return (
        f"asked the model {spend.paid:,} times for {spend.paid_cost:.2f};"
        f" {spend.requests - spend.paid:,} answers were remembered"
    )


def _drawn(recipe: Recipe) -> set[str]:
    return {kind for mix in (recipe.image_mix, recipe.video_mix) for kind, share in mix.items() if share > 0}


def _counted(counter: Mapping[str, int]) -> list[list[str]]:
    return [[name, f"{count:,}"] for name, count in sorted(counter.items())]


def _mix(text: str) -> dict[str, float]:
    """Shares from `kind=share,kind=share`."""
    try:
        pairs = [item.split("=") for item in text.split(",")]
        mix = {kind: float(share) for kind, share in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=SHARE,KIND=SHARE") from None
    if unknown := sorted(set(mix) - set(TEMPLATES)):
        raise argparse.ArgumentTypeError(f"unknown kind {unknown[0]!r}; there are {', '.join(TEMPLATES)}")
    return mix


def _prices(text: str) -> tuple[float, float]:
    try:
        prompt, completion = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not PROMPT,COMPLETION, such as 2.5,10") from None
    return prompt, completion
