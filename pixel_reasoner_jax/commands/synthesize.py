"""`pixel-reasoner synthesize`: annotated images and videos to trajectories on disk."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fcntl
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from data_pipeline.sources import SeedSource, open_source
from data_pipeline.synthesis.captioner import Captioner, TemplateCaptioner
from data_pipeline.synthesis.contact_sheet import contact_sheet
from data_pipeline.synthesis.model_captioner import ModelCaptioner, load_prompts
from data_pipeline.synthesis.phrases import PHRASES
from data_pipeline.synthesis.policy_sampler import PolicySampler
from data_pipeline.synthesis.synthesis import (
    REJECTED_FILE,
    SUMMARY_FILE,
    Synthesis,
    SynthesisSettings,
    SynthesisSummary,
)
from data_pipeline.synthesis.synthesizer import BudgetMediaLoader
from data_pipeline.synthesis.templates import IMAGE_MIX, SAMPLED, SAMPLED_MIX, TEMPLATES, VIDEO_MIX
from pixel_reasoner_jax.checkpoint import check_is_no_run
from pixel_reasoner_jax.commands.served import paid
from pixel_reasoner_jax.endpoint import Endpoint, EndpointSettings
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, check_folder, is_remote, write_text
from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.operations import allow_own
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.processing.sources import MediaSettings, use_media_settings
from pixel_reasoner_jax.report.text import plain_table, printable
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy

SHEET = "contact_sheet.html"
LOCK = ".synthesis.lock"

_Prepared = tuple[SynthesisSettings, Callable[[], Captioner] | PolicySampler, BudgetMediaLoader, Endpoint | None]

NAMED = 20
"""The most seeds that the printed summary names; the file of rejections names all."""


def run(args: argparse.Namespace) -> SynthesisSummary:
    """Synthesizes, and prints what came of it.

    Raises:
      UserError: options that fit no synthesis, a source that cannot be read, a folder that holds another data set, an
        endpoint that cannot be used.
    """
    check_folder(args.out)
    allow_own(args.own)
    use_media_settings(MediaSettings(root=args.media_root))
    sources = {spec: open_source(spec) for spec in dict.fromkeys(args.source)}
    prepare = _sampled if args.captioner.startswith("model:") else _written
    settings, captioner, media, endpoint = prepare(args, sources)
    out = as_path(args.out)
    held = _held(out)
    try:
        with _locked(out), Progress("synthesis", args.count) as progress:
            synthesis = Synthesis(settings, captioner, media, out, args.workers)
            summary = synthesis.run(lambda so_far: progress.update(so_far.count, **_figures(so_far)))
    finally:
        if endpoint is not None:
            endpoint.close()
            print(paid(endpoint), file=sys.stderr)
    if held is not None:
        extended = f"held {held:,} trajectories, to which {summary.count - held:,} were added"
        print(f"{out} {extended if summary.count > held else 'is complete already'}", file=sys.stderr)
    sheet = write_text(out / SHEET, contact_sheet(out, media, seed=args.seed))
    print(report(summary, settings))
    print(f"rejected: {out / REJECTED_FILE}\npage: {sheet}\ntrajectories: {out}")
    shares = summary.shares(settings.image_mix, settings.video_mix)
    print(json.dumps({**summary.to_json(), "shares": shares}, allow_nan=False))
    return summary


def report(summary: SynthesisSummary, settings: SynthesisSettings) -> str:
    """The tables: kinds of trajectory, sources, and what was put aside."""
    wanted = _wanted(summary, settings)
    rows = [["", "trajectories", "share", "wanted", "impossible"]]
    for kind in [kind for kind in (*TEMPLATES, SAMPLED) if kind in _drawn(settings)]:
        made, share = summary.kinds[kind], summary.kinds[kind] / summary.count
        rows.append([kind, f"{made:,}", f"{share:.1%}", f"{wanted[kind]:.1%}", f"{summary.impossible[kind]:,}"])
    tables = [plain_table([*rows, ["all", f"{summary.count:,}", "", "", f"{summary.impossible.total():,}"]])]
    if given_up := [kind for kind in TEMPLATES if summary.impossible[kind]]:
        tables.append(f"not all seeds allow {', '.join(given_up)}: the shares that came out are not those wanted")
    if len(settings.sources) > 1:
        tables.append(plain_table([["source", "trajectories"], *_counted(summary.sources)]))
    if summary.rejected:
        tables.append(plain_table([["rejected", "seeds"], *_counted(summary.rejected)]))
    if names := summary.unconfirmed:
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        tables.append(f"no proposed box was kept for {', '.join(map(printable, names[:NAMED]))}{more}")
    if summary.count < settings.count:
        tables.append(f"the sources have no more: {summary.count:,} of {settings.count:,} trajectories wanted")
    if summary.spend.requests:
        tables.append(
            f"texts: {summary.spend.requests:,} answers, {summary.spend.prompt_tokens:,} tokens read,"
            f" {summary.spend.completion_tokens:,} written, cost {summary.spend.cost:.2f}"
        )
    return "\n\n".join(tables)


def _mix(asked: Mapping[str, float] | None, default: Mapping[str, float]) -> Mapping[str, float]:
    """The shares asked for, once it is known that there are such kinds."""
    if unknown := sorted(set(asked or ()) - set(TEMPLATES)):
        raise UserError(f"unknown kind {unknown[0]!r} of trajectory; there are {', '.join(TEMPLATES)}")
    return asked or default


def _written(args: argparse.Namespace, sources: Mapping[str, SeedSource]) -> _Prepared:
    """A synthesis whose trajectories are templates, with text by a captioner."""
    if args.model:
        check_is_no_run(args.model)
    media = BudgetMediaLoader(Processor.from_pretrained(args.model).budgets if args.model else Budgets())
    captioner, decides, endpoint = _captioner(args, media)
    settings = SynthesisSettings(
        sources=sources,
        count=args.count,
        seed=args.seed,
        padding=args.padding,
        box_rule=(PolicySettings.load(args.model) if args.model else PolicySettings()).box_rule,
        image_mix=_mix(args.image_mix, IMAGE_MIX),
        video_mix=_mix(args.video_mix, VIDEO_MIX),
        captioner={**decides, "budgets": dataclasses.asdict(media.budgets)},
        shard_size=args.shard_size,
    )
    return settings, captioner, media, endpoint


def _sampled(args: argparse.Namespace, sources: Mapping[str, SeedSource]) -> _Prepared:
    """A synthesis whose trajectories a model of ours writes, with its own operations, padding and budgets."""
    for name in ("model", "image_mix", "video_mix"):
        if getattr(args, name):
            raise UserError(
                f"--{name.replace('_', '-')} is for templates; with --captioner {args.captioner} the model decides"
            )
    directory = args.captioner.removeprefix("model:")
    policy = load_policy(directory, dtype=args.dtype)
    learnt = PolicySettings.load(directory)
    sampler = PolicySampler(policy, args.samples, args.temperature)
    media = BudgetMediaLoader(policy.processor.budgets)
    settings = SynthesisSettings(
        sources=sources,
        count=args.count,
        seed=args.seed,
        padding=learnt.padding,
        box_rule=learnt.box_rule,
        image_mix=SAMPLED_MIX,
        video_mix=SAMPLED_MIX,
        captioner={
            "kind": "model",
            "directory": directory,
            "samples": args.samples,
            "temperature": args.temperature,
            "dtype": args.dtype,
            "settings": dataclasses.asdict(learnt),
            "budgets": dataclasses.asdict(media.budgets),
        },
        shard_size=args.shard_size,
    )
    return settings, sampler, media, None


def _captioner(
    args: argparse.Namespace, media: BudgetMediaLoader
) -> tuple[Callable[[], Captioner], dict[str, Any], Endpoint | None]:
    """What makes a captioner, what decides its text, and the endpoint it uses."""
    if args.captioner == "template":
        return (
            functools.partial(TemplateCaptioner, seed=args.seed),
            {"kind": "template", "phrases": _digest(PHRASES)},
            None,
        )
    names = ("temperature", "max_tokens", "timeout", "attempts", "requests_per_minute", "base_url", "budget")
    settings = EndpointSettings(
        model=args.caption_model,
        prompt_price=args.prices[0],
        completion_price=args.prices[1],
        concurrency=args.workers,
        **{name: getattr(args, name) for name in names},
        **({"cache": args.cache} if args.cache else {}),
    )
    prompts, endpoint = load_prompts(args.prompts), Endpoint(settings)
    decides = {"kind": "openai", "prompts": _digest(prompts)}
    decides |= {name: getattr(settings, name) for name in ("model", "temperature", "max_tokens")}
    return functools.partial(ModelCaptioner, endpoint, prompts, media, args.padding), decides, endpoint


def _held(out: Any) -> int | None:
    """The number of trajectories of a finished synthesis; None if the folder has none."""
    path = out / SUMMARY_FILE
    return json.loads(path.read_text(encoding="utf-8"))["count"] if path.exists() else None


def _digest(texts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


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
            raise UserError(f"another run is synthesizing into {out}") from None
        try:
            yield
        finally:
            (out / LOCK).unlink()


def _figures(summary: SynthesisSummary) -> dict[str, float]:
    figures = {"rejected": summary.rejected.total()}
    return figures | ({"cost": summary.spend.cost} if summary.spend.cost else {})


def _wanted(summary: SynthesisSummary, settings: SynthesisSettings) -> collections.Counter[str]:
    """The share of every kind that was wanted among all trajectories, about images and about videos."""
    wanted, videos = collections.Counter(), summary.videos.total()
    for medium, shares in summary.shares(settings.image_mix, settings.video_mix).items():
        weight = videos if medium == "video" else summary.count - videos
        wanted.update({kind: share["wanted"] * weight / summary.count for kind, share in shares.items()})
    return wanted


def _drawn(settings: SynthesisSettings) -> set[str]:
    return {kind for mix in (settings.image_mix, settings.video_mix) for kind, share in mix.items() if share > 0}


def _counted(counter: Mapping[str, int]) -> list[list[str]]:
    return [[name, f"{count:,}"] for name, count in sorted(counter.items())]
