"""The whole method in miniature, from nothing to a report: what `make quickstart` runs.

A small Qwen2.5-VL learns in the pixel-search world, through the very code that trains a 7B model: the trajectories
and queries are synthesized and stored, a pretraining and a warm start go through `training.sft`, two runs from the
same start through `training.rl`, with and without curiosity, and all of them are evaluated on held-out images.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import transformers
from ml_collections import ConfigDict

from data_pipeline import lessons
from data_pipeline.records import DATASET_INFO, RecordWriter
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.commands.evaluate import Queries, prior_figures
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.config import FILE, ConfigError, changes, save_config
from pixel_reasoner_jax.evaluation.records import RECORDS, ScoredRecordWriter, write_results
from pixel_reasoner_jax.evaluation.run import BENCHMARK, Evaluation, evaluate, side_by_side
from pixel_reasoner_jax.evaluation.tally import difference
from pixel_reasoner_jax.files import as_path, output_directory
from pixel_reasoner_jax.metrics import Progress, read_metrics
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.weights import SINGLE as WEIGHTS
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.processing.sources import MediaSettings
from pixel_reasoner_jax.report.report import COLUMNS, STAGES, write_report
from pixel_reasoner_jax.report.text import figures_table, interval_text
from pixel_reasoner_jax.rollout.settings import FILE as SETTINGS
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy
from pixel_reasoner_jax.training import rl, sft
from pixel_reasoner_jax.training.training_run import MODEL, rollout_limits

LEAD = (
    "A digit in a colored box is drawn so finely that it vanishes at the resolution the model sees: only a crop of the"
    " raw image shows it. Guessing from the color is right nearly half the time, zooming fails at first, so plain"
    " reinforcement learning stops zooming. The curiosity reward keeps it trying until it pays."
)


def run(config: ConfigDict) -> dict[str, Any]:
    """Runs every stage that `config.workdir` does not hold already, writes report.html, prints the figures.

    Args:
      config: see configs/quickstart.py.

    Returns:
      The figures printed: stage to accuracy and its 95% interval, RaPR, operations per response and failure rate.

    Raises:
      ConfigError: the directory holds a quickstart with other settings.
    """
    enable_cache()
    workdir = _workdir(config)
    if found := sorted(path.parents[1].name for path in workdir.glob(f"*/{MODEL}/{SETTINGS}")):
        print(f"found in {workdir}: {', '.join(found)}; remove it to train them anew", file=sys.stderr)
    initial, data = workdir / "initial", workdir / "data"
    make_initial_model(config, initial)
    save_config(config, workdir)
    _synthesize(config, initial, data)

    pretrained = _train(sft.run, config, "pretraining", workdir / "pretraining", initial, data / "pretraining")
    warm = _train(sft.run, config, "warm_start", workdir / "warm_start", pretrained, data / "warm_start")
    plain = copy.deepcopy(config)
    plain.rl.curiosity.alpha = 0.0
    runs = {
        "rl_without_curiosity": _train(rl.run, plain, "rl", workdir / "rl_without_curiosity", warm, data / "queries"),
        "rl_with_curiosity": _train(rl.run, config, "rl", workdir / "rl_with_curiosity", warm, data / "queries"),
    }

    held_out = PixelSearch(config.evaluation.queries, "heldout", config.seed)
    evaluations = {
        stage: _evaluate(config, stage, directory, held_out, workdir / "evaluation" / stage)
        for stage, directory in {"warm_start": warm, **runs}.items()
    }
    figures = {"prior": prior_figures(held_out)} | {
        stage: {**result.figures, "interval": result.tally.figures()["interval"]}
        for stage, result in evaluations.items()
    }
    report = write_report(
        workdir / "report.html",
        figures=figures,
        runs={stage: read_metrics(workdir / stage) for stage in runs},
        responses=side_by_side(evaluations),
        config=config.to_dict(),
        lead=LEAD,
        rate_floor=config.rl.curiosity.rate_floor,
    )
    print(
        figures_table({STAGES[stage]: row for stage, row in figures.items()}, {k: v for k, (v, _) in COLUMNS.items()})
    )
    change = difference(*(evaluations[stage].tally for stage in runs))
    print(
        f"accuracy with curiosity less without: {interval_text(change['difference'], change['interval'], '+')},"
        f" 95% interval over {change['count']} images"
    )
    print(f"report: {report}")
    print(json.dumps(figures, allow_nan=False))
    return figures


def _workdir(config: ConfigDict) -> pathlib.Path:
    """The run's directory; an interrupted quickstart of the same settings goes on where it was."""
    workdir = as_path(config.workdir)
    if (workdir / FILE).exists() and (changed := changes(config, workdir)):
        path, (before, _) = next(iter(changed.items()))
        raise ConfigError(
            f"{workdir} holds a quickstart with other settings (its config.{path} is {before!r}): choose another"
            " directory with --config.workdir=DIRECTORY, or remove it"
        )
    return workdir


def make_initial_model(config: ConfigDict, directory: pathlib.Path) -> None:
    """A tokenizer trained on the world's text, a model of random parameters, and how to ask it."""
    if (directory / WEIGHTS).exists():  # written last
        return
    registry = default_registry(lessons.PADDING)
    with output_directory(directory) as local:
        lessons.save_world_processor(local, registry)
        tokenizer = transformers.AutoTokenizer.from_pretrained(local)
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "bos_token_id": "<|endoftext|>",
            "eos_token_id": "<|im_end|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
        }.items()
    }
    sizes = dataclasses.replace(Config.preset(config.model.preset), vocab_size=len(tokenizer), **ids)
    PolicySettings(padding=lessons.PADDING, limits=rollout_limits(config.rl.rollout)).save(directory)
    Qwen2_5_VL.create(sizes, config.seed).save_pretrained(directory)


def _synthesize(config: ConfigDict, model: pathlib.Path, data: pathlib.Path) -> None:
    """Writes the records of every phase."""
    registry = PolicySettings.load(model).registry()
    processor = Processor.from_pretrained(model)
    write_warm_start = lessons.warm_start(
        registry,
        processor,
        seed=config.seed,
        misplaced=config.warm_start.misplaced,
        favoured=config.warm_start.favoured,
    )
    phases: dict[str, tuple[str, Iterable[Any], int]] = {
        "pretraining": (
            "trajectory",
            lessons.pretraining(config.pretraining.lessons, registry, config.seed),
            config.pretraining.lessons,
        ),
        "warm_start": (
            "trajectory",
            itertools.chain(
                map(write_warm_start, PixelSearch(config.warm_start.trajectories, "sft", config.seed)),
                lessons.pretraining(config.warm_start.lessons, registry, config.seed),
            ),
            config.warm_start.trajectories + config.warm_start.lessons,
        ),
        "queries": (
            "query",
            (seed.query() for seed in PixelSearch(config.rl.queries, "rl", config.seed)),
            config.rl.queries,
        ),
    }
    for name, (kind, records, count) in phases.items():
        if (data / name / DATASET_INFO).exists():
            continue
        with RecordWriter(data / name, kind) as writer, Progress(f"synthesizing {name}", count) as progress:
            for number, record in enumerate(records, start=1):
                writer.write(record)
                progress.update(number)


def phase_config(config: ConfigDict, section: str, workdir: pathlib.Path, model: str, data: str) -> ConfigDict:
    """The experiment of a phase: the section's settings around what all phases share.

    Args:
      config: see configs/quickstart.py.
      section: "pretraining", "warm_start" or "rl".
      workdir, model, data: directories of the run, of the model it starts from, and of its records.
    """
    phase = copy.deepcopy(config[section])
    phase.update(
        dict(
            title=workdir.name,
            seed=config.seed,
            workdir=str(workdir),
            model=dict(
                directory=model, dtype=config.model.dtype, param_dtype="float32", remat="none", position_rule=None
            ),
            lora=dict(rank=0, alpha=1.0, targets=()),
            processor=dataclasses.asdict(lessons.BUDGETS),
            operations=dict(padding=lessons.PADDING, release=False, box_rule=None),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            media=dataclasses.asdict(MediaSettings()),
            data=dict(path=data, mixture=(), shards=0, workers=0, max_unreadable=0.0, pass_rates=(0.0, 1.0)),
        )
    )
    return phase


def _train(
    run_phase: Callable[..., pathlib.Path],
    config: ConfigDict,
    section: str,
    workdir: pathlib.Path,
    model: pathlib.Path,
    data: pathlib.Path,
) -> pathlib.Path:
    """Runs a phase unless its model is there already."""
    if (workdir / MODEL / SETTINGS).exists():  # written last
        return workdir / MODEL
    begun = (workdir / FILE).exists()
    return run_phase(phase_config(config, section, workdir, str(model), str(data)), resume=begun)


def _evaluate(
    config: ConfigDict, stage: str, directory: pathlib.Path, seeds: PixelSearch, out: pathlib.Path
) -> Evaluation:
    """Evaluates a stage; `out` is the folder for what `compare` reads, and what it holds of before is replaced."""
    settings = config.evaluation
    (out / RECORDS).unlink(missing_ok=True)
    with Progress(f"evaluating {stage}", len(seeds)) as progress, ScoredRecordWriter(out) as writer:
        evaluation = evaluate(
            load_policy(directory, dtype=config.model.dtype, slots=settings.slots),
            Queries(seeds),
            samples=settings.samples,
            seed=config.seed,
            temperature=settings.temperature,
            on_progress=progress.update,
            on_record=writer.write,
        )
    protocol = {"seed": config.seed, **settings.to_dict()}
    write_results(out, {"benchmarks": {BENCHMARK: {**evaluation.tally.figures(), "protocol": protocol}}})
    return evaluation
