"""A few trajectories of every episode, stored as records beside the run: to be read, and not only counted.

The folder `samples/00012` of a run's directory is a data set of episode 12, which `pixel-reasoner inspect` shows. Its
trajectories have, as attributes, what was computed for them: the terms of the reward, the advantage, and for every
token that was sampled the log-probability by the sampler and by the trainer. Images are as large as the model saw them,
and each is stored once. An episode that is begun anew replaces its data set, and a run that goes on from a checkpoint
drops those of later episodes, as it drops their metrics.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from data_pipeline.draft import Draft
from data_pipeline.records import DATASET_INFO, RecordError, RecordWriter
from pixel_reasoner_jax.operations.error_kinds import ERROR_KINDS, error_kind
from pixel_reasoner_jax.parallel import all_gather, is_main
from pixel_reasoner_jax.processing import Media, MediaError, Picture, Processor, Video
from pixel_reasoner_jax.report.images import open_image
from pixel_reasoner_jax.report.text import printable
from pixel_reasoner_jax.report.trajectory_json import to_json_types
from pixel_reasoner_jax.trackers import TrackedSample
from pixel_reasoner_jax.training.kept_responses import drop_after
from pixel_reasoner_jax.training.mismatch import difference_figures, logprob_differences
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.scoring import trainer_logprobs
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.training_run import TrainingRun
from pixel_reasoner_jax.trajectory import Source, Trajectory

SAMPLES = "samples"  # folder in a run's directory
KIND = "rollout"  # of the drafts
MOST_IMAGES, MOST_TEXT = 24, 20_000  # images and characters of a sample that trackers get

_log = logging.getLogger(__name__)


class Rewarded(Protocol):
    """The attributes of `grpo.RewardedGroups` that are stored; arrays are [queries, G]."""

    groups: list[list[Trajectory]]
    terms: Mapping[str, np.ndarray]
    rewards: np.ndarray
    advantages: np.ndarray


def error_counts(groups: list[list[Trajectory]]) -> dict[str, int]:
    """How many calls failed, by the kind of their error, in all processes, which call this together.

    Returns:
      `errors_<kind>` for each of `ERROR_KINDS`.
    """
    kinds = [error_kind(record) for group in groups for trajectory in group for record in trajectory.operations]
    counts = all_gather(np.array([kinds.count(kind) for kind in ERROR_KINDS], np.int32)).sum(axis=0)
    return dict(zip((f"errors_{kind}" for kind in ERROR_KINDS), counts.tolist(), strict=True))


def log_samples(
    training: TrainingRun, trainer: Trainer, params: Any, rewarded: Rewarded, episode: int, count: int, seed: int
) -> dict[str, float]:
    """Stores some trajectories of an episode. All processes call this together, before the first update.

    Args:
      training: the run.
      trainer: scores the trajectories.
      params: that have sampled.
      rewarded: the episode's groups; the first process stores some of its own.
      episode: its number.
      count: how many are stored; 0 does nothing.
      seed: of their choice.

    Returns:
      How far the sampler's log-probabilities are from the trainer's, see `difference_figures`; in the first process
      alone.

    Raises:
      StorageError: the disk has no room for them.
    """
    if not count:
        return {}
    with training.phase("samples"):
        return _store(training, trainer, params, rewarded, episode, count, seed)


def drop_samples_after(workdir: pathlib.Path, episode: int) -> None:
    """Removes the samples of later episodes, of a run that goes on after this one. One process does it."""
    drop_after(workdir / SAMPLES, episode)


def _store(
    training: TrainingRun, trainer: Trainer, params: Any, rewarded: Rewarded, episode: int, count: int, seed: int
) -> dict[str, float]:
    chosen = _choose(rewarded.groups, count, (seed, episode)) if is_main() else []
    of_place = {place: Sequence.of(rewarded.groups[place[0]][place[1]]) for place in chosen}
    plans = training.plan({**dict.fromkeys(training.shards.local, []), training.shards.local[0]: [*of_place.values()]})
    scored = {id(s): logprobs for s, logprobs in trainer_logprobs(trainer, params, training.agree_on_shapes(plans))}
    if not is_main():
        return {}
    scores = {place: scored[id(sequence)] for place, sequence in of_place.items()}
    folder = training.workdir / SAMPLES / f"{episode:05d}"
    (folder / DATASET_INFO).unlink(missing_ok=True)  # of an episode that was dropped
    with RecordWriter(folder, "trajectory") as writer:
        for place, logprobs in scores.items():
            trajectory = rewarded.groups[place[0]][place[1]]
            figures = {
                "episode": episode,
                "reward": float(rewarded.rewards[place]),
                "reward_terms": {label: float(values[place]) for label, values in rewarded.terms.items()},
                "advantage": float(rewarded.advantages[place]),
            }
            try:
                writer.write(_draft(trajectory, figures, logprobs))
            except (RecordError, MediaError) as error:  # whatever a model wrote, or a file that is gone
                _log.warning("episode %d: a sample was not stored: %s", episode, error)
    if training.is_tracked:
        try:
            shown = [_tracked(rewarded, place) for place in scores]
        except Exception as error:  # whatever a model wrote: what is only shown ends no run
            _log.warning(
                "episode %d: its samples are not shown to trackers: %s: %s", episode, type(error).__name__, error
            )
        else:
            training.track("samples", episode, shown)
    return difference_figures(_differences(rewarded, scores, training.processor))


def _tracked(rewarded: Rewarded, place: tuple[int, int]) -> TrackedSample:
    """A response as trackers show it: long texts are cut and can be encoded; images that are gone are left out."""
    trajectory = rewarded.groups[place[0]][place[1]]
    images, texts, begun = [], [], False
    for message in trajectory.messages:
        begun = begun or message["role"] == "assistant"
        for item in message["content"]:
            shown = item["video"].frames if item["type"] == "video" else [item["image"]] if "image" in item else []
            images += list(filter(None, map(open_image, shown[: MOST_IMAGES - len(images)])))
            if begun:
                texts.append(item.get("text", "<image>" * len(shown)))
    figures = {"reward": rewarded.rewards[place], "advantage": rewarded.advantages[place]}
    figures |= {f"reward_{label}": values[place] for label, values in rewarded.terms.items()}
    reference = trajectory.reference
    return TrackedSample(
        query_id=printable(str(trajectory.query_id)[:MOST_TEXT]),
        sample=trajectory.sample,
        question=printable(trajectory.question[:MOST_TEXT]),
        reference=printable((reference if isinstance(reference, str) else " | ".join(map(str, reference)))[:MOST_TEXT]),
        text=printable("".join(texts)[:MOST_TEXT]),
        figures={name: float(value) for name, value in figures.items()},
        images=images,
    )


def _choose(groups: list[list[Trajectory]], count: int, seed: tuple[int, int]) -> list[tuple[int, int]]:
    """The places (query, sample) of responses drawn at random, in order."""
    places = [
        (query, sample) for query, group in enumerate(groups) for sample, one in enumerate(group) if len(one.tokens)
    ]
    drawn = np.random.default_rng(seed).permutation(len(places))[:count]
    return [places[index] for index in sorted(drawn.tolist())]


def _differences(rewarded: Rewarded, scores: Mapping[tuple[int, int], np.ndarray], processor: Processor):
    for (query, sample), logprobs in scores.items():
        t = rewarded.groups[query][sample]
        yield logprob_differences(t.logprobs, logprobs, t.tokens, t.source, processor.placeholder_tokens)


def _draft(trajectory: Trajectory, figures: Mapping[str, Any], trainer: np.ndarray) -> Draft:
    """A trajectory as it is stored, with what was computed for it."""
    sampled = trajectory.source == Source.SAMPLED
    runs = [[int(source), len([*run])] for source, run in itertools.groupby(trajectory.source.tolist())]
    attributes = {
        "policy_version": trajectory.policy_version,
        "sample": trajectory.sample,
        "ended": None if trajectory.ended is None else str(trajectory.ended),
        **({} if trajectory.object_box is None else {"object_box": trajectory.object_box}),
        **figures,
        "tokens": {
            "ids": trajectory.tokens.tolist(),
            "source": runs,
            "temperatures": _numbers(trajectory.temperatures[sampled]),
            "logprobs": _numbers(trajectory.logprobs[sampled]),
            "trainer_logprobs": _numbers(trainer[sampled]),
        },
    }
    records = [to_json_types(dataclasses.asdict(record)) for record in trajectory.operations]
    media = iter(trajectory.media)
    return Draft(
        query_id=trajectory.query_id,
        question=trajectory.question,
        reference=trajectory.reference,
        kind=KIND,
        messages=[
            {"role": message["role"], "content": [_item(item, media) for item in message["content"]]}
            for message in trajectory.messages
        ],
        operations=tuple(
            type(record).from_dict(fields) for record, fields in zip(trajectory.operations, records, strict=True)
        ),
        attributes=to_json_types(attributes),
    )


def _numbers(values: np.ndarray) -> list[float]:
    """Float32 numbers in as few digits as tell them apart."""
    return [float(str(value)) for value in values.astype(np.float32)]


def _item(item: Mapping[str, Any], media: Any) -> dict[str, Any]:
    """An item of a message; images and frames no larger than the model saw them."""
    if item["type"] == "text":
        return dict(item)
    shown: Media = next(media)
    if item["type"] == "image":
        return {**item, "image": _shrunk(item["image"], shown.size)}
    video: Video = item["video"]
    return {"type": "video", "video": [_shrunk(frame, shown.size) for frame in video.frames], "fps": video.fps}


def _shrunk(image: Any, size: tuple[int, int]) -> Any:
    larger = image.size[0] * image.size[1] > size[0] * size[1]
    image = image.resize(size) if larger else image
    return image.load() if isinstance(image, Picture) else image
