"""The whole method in miniature, from nothing to a report: what `make quickstart` runs.

A small Qwen2.5-VL learns in the pixel-search world, through the very code that trains a 7B model: the trajectories
and queries are synthesized and stored, a pretraining and a warm start go through `training.sft`, two runs from the
same start through `training.rl`, with and without curiosity, and all of them are evaluated on held-out images.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import transformers
from ml_collections import ConfigDict

from data_pipeline import lessons
from data_pipeline.records import DATASET_INFO, RecordWriter
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.commands.evaluate import Queries, prior_figures
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.evaluation.records import RECORDS, ScoredRecord, ScoredRecordWriter, write_results
from pixel_reasoner_jax.evaluation.run import BENCHMARK, Evaluation, evaluate, side_by_side
from pixel_reasoner_jax.evaluation.tally import difference
from pixel_reasoner_jax.evaluation.trajectories import TRAJECTORIES, TrajectoryWriter
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
from pixel_reasoner_jax.saved_config import FILE, changes, save_config
from pixel_reasoner_jax.training import rl, sft
from pixel_reasoner_jax.training.policy_settings import rollout_limits
from pixel_reasoner_jax.training.training_run import MODEL
from pixel_reasoner_jax.trajectory import Trajectory

VIEWED = 64  # held-out queries whose responses are kept with their images, for `pixel-reasoner view`
PHASES = {"pretraining": "trajectory", "warm_start": "trajectory", "queries": "query"}
"""What has records of its own, and of which kind they are."""

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
    workdir = as_path(config.workdir)
    check_settings(config, workdir, "a quickstart", "--config.workdir=DIRECTORY")
    if found := sorted(path.parents[1].name for path in workdir.glob(f"*/{MODEL}/{SETTINGS}")):
        print(f"found in {workdir}: {', '.join(found)}; remove it to train them anew", file=sys.stderr)
    initial, data = workdir / "initial", workdir / "data"
    make_initial_model(config, initial)
    save_config(config, workdir)
    for phase in PHASES:
        synthesize(config, phase, initial, data / phase)

    pretrained = train(sft.run, config, "pretraining", workdir / "pretraining", initial, data / "pretraining")
    warm = train(sft.run, config, "warm_start", workdir / "warm_start", pretrained, data / "warm_start")
    plain = without_curiosity(config)
    runs = {
        "rl_without_curiosity": train(rl.run, plain, "rl", workdir / "rl_without_curiosity", warm, data / "queries"),
        "rl_with_curiosity": train(rl.run, config, "rl", workdir / "rl_with_curiosity", warm, data / "queries"),
    }

    held_out = seeds_of(config, config.evaluation.queries, "heldout")
    evaluations = {
        stage: evaluate_held_out(config, stage, directory, held_out, workdir / "evaluation" / stage)
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


def without_curiosity(config: ConfigDict) -> ConfigDict:
    """The same quickstart with no bonus for operations, in any episode: a dual alpha would grow from 0."""
    plain = copy.deepcopy(config)
    plain.rl.curiosity.update(dict(alpha=0.0, multipliers="fixed"))
    return plain


def check_settings(config: ConfigDict, directory: pathlib.Path, what: str, option: str) -> None:
    """Checks that what a directory holds, if anything, was made with these settings, and can go on where it was.

    Args:
      config: the settings now; those of before are where `save_config` has put them.
      directory: may be missing.
      what, option: name in the message what it holds, and the option that chooses another directory.

    Raises:
      ConfigError: it was made with others.
    """
    if (directory / FILE).exists() and (changed := changes(config, directory)):
        path, (before, _) = next(iter(changed.items()))
        raise ConfigError(
            f"{directory} holds {what} with other settings (its config.{path} is {before!r}): choose another"
            f" directory with {option}, or remove it"
        )


def make_initial_model(config: ConfigDict, directory: pathlib.Path) -> None:
    """A tokenizer trained on the world's text, a model of random parameters, and how to ask it."""
    if (directory / WEIGHTS).exists():  # written last
        return
    registry = default_registry(lessons.PADDING)
    with output_directory(directory) as local:
        lessons.save_world_processor(local, registry, world=config.world)
        tokenizer = transformers.AutoTokenizer.from_pretrained(local)
    PolicySettings(padding=lessons.PADDING, limits=rollout_limits(config.rl.rollout)).save(directory)
    random_model(tokenizer, config.model.preset, config.seed).save_pretrained(directory)


def random_model(tokenizer: transformers.PreTrainedTokenizerBase, preset: str = "tiny", seed: int = 0) -> Qwen2_5_VL:
    """A model of random parameters for the vocabulary of a tokenizer of `data_pipeline.tokenizer`."""
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
    sizes = dataclasses.replace(Config.preset(preset), vocab_size=len(tokenizer), **ids)
    return Qwen2_5_VL.create(sizes, seed)


def seeds_of(config: ConfigDict, count: int, split: str) -> PixelSearch:
    """The first seeds of a split of the config's world."""
    return lessons.WORLDS[config.world].source(count, split, config.seed)


def synthesize(config: ConfigDict, phase: str, model: pathlib.Path, data: pathlib.Path) -> None:
    """Writes the records of a phase into `data`, unless they are there.

    Args:
      config: see configs/quickstart.py.
      phase: one of `PHASES`.
      model: the directory of the initial model, whose operations and tokenizer are used.
      data: the directory of the records.
    """
    if (data / DATASET_INFO).exists():
        return
    kind, count = PHASES[phase], _record_count(config, phase)
    with RecordWriter(data, kind) as writer, Progress(f"synthesizing {phase}", count) as progress:
        for number, record in enumerate(_records(config, phase, model), start=1):
            writer.write(record)
            progress.update(number)


def _record_count(config: ConfigDict, phase: str) -> int:
    warm_start = config.warm_start.trajectories + config.warm_start.lessons
    return {"pretraining": config.pretraining.lessons, "warm_start": warm_start, "queries": config.rl.queries}[phase]


def _records(config: ConfigDict, phase: str, model: pathlib.Path) -> Iterator[Any]:
    if phase == "queries":
        return (seed.query() for seed in seeds_of(config, config.rl.queries, "rl"))
    registry = PolicySettings.load(model).registry()
    if phase == "pretraining":
        return lessons.pretraining(config.pretraining.lessons, registry, config.seed, config.world)
    write = lessons.warm_start(
        registry,
        Processor.from_pretrained(model),
        seed=config.seed,
        world=config.world,
        corrections=config.warm_start.corrections,
        misplaced=config.warm_start.misplaced,
        favoured=config.warm_start.favoured,
    )
    trajectories = map(write, seeds_of(config, config.warm_start.trajectories, "sft"))
    rehearsed = lessons.pretraining(config.warm_start.lessons, registry, config.seed, config.world)
    return itertools.chain(trajectories, rehearsed)


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
            processor=dataclasses.asdict(lessons.WORLDS[config.world].budgets),
            operations=dict(padding=lessons.PADDING, release=False, box_rule=None, names=None, syntax=None),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            metrics=config.metrics.to_dict(),
            media=dataclasses.asdict(MediaSettings()),
            data=dict(
                path=data,
                mixture=(),
                shuffle=True,
                shards=0,
                workers=0,
                max_unreadable=0.0,
                pass_rates=(0.0, 1.0),
                held_out=0.0,
            ),
        )
    )
    return phase


def train(
    run_phase: Callable[..., pathlib.Path],
    config: ConfigDict,
    section: str,
    workdir: pathlib.Path,
    model: pathlib.Path,
    data: pathlib.Path,
) -> pathlib.Path:
    """Runs a phase, from where it was, unless its model is there already.

    Args:
      run_phase: `sft.run` or `rl.run`.
      config, section, workdir, model, data: see `phase_config`.

    Returns:
      The directory of the trained model.
    """
    if (workdir / MODEL / SETTINGS).exists():  # written last
        return workdir / MODEL
    begun = (workdir / FILE).exists()
    return run_phase(phase_config(config, section, workdir, str(model), str(data)), resume=begun)


def evaluate_held_out(
    config: ConfigDict, stage: str, directory: pathlib.Path, seeds: PixelSearch, out: pathlib.Path
) -> Evaluation:
    """Evaluates a stage's model; `out` is the folder for what `compare` reads, and what it holds of before is replaced.

    Args:
      config: see configs/quickstart.py.
      stage: names it in the progress.
      directory: of the model.
      seeds: held-out ones.
      out: gets the scored records, trajectories of the first of them and, when all are there, the results.
    """
    settings = config.evaluation
    for file in (RECORDS, TRAJECTORIES):
        (out / file).unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(f"evaluating {stage}", len(seeds)))
        records, trajectories = (stack.enter_context(make(out)) for make in (ScoredRecordWriter, TrajectoryWriter))

        def keep(record: ScoredRecord, trajectory: Trajectory) -> None:
            if int(record.id) < VIEWED:
                trajectories.write(record.key, trajectory)
            records.write(record)

        evaluation = evaluate(
            load_policy(directory, dtype=config.model.dtype, slots=settings.slots),
            Queries(seeds),
            samples=settings.samples,
            seed=config.seed,
            temperature=settings.temperature,
            on_progress=progress.update,
            on_record=keep,
        )
    protocol = {"seed": config.seed, **settings.to_dict()}
    write_results(out, {"benchmarks": {BENCHMARK: {**evaluation.tally.figures(), "protocol": protocol}}})
    return evaluation
