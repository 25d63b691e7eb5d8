"""A whole synthesis: from sources of seeds to a data set of checked trajectories; resumable and reproducible.

Seeds are taken from all sources in turn, each source shuffled, and worked on in batches. Of each batch, seeds that
cannot be read and near-duplicates are rejected before anything is written about them. From the others trajectories are
made and checked, and those of one batch become one shard of the data set. Batches follow until enough trajectories are
made or no seeds are left. Which seeds a batch has depends only on the results of the batches before it, which are on
disk: a killed run goes on where it was, and the data set is the same for any number of workers. With a larger count, a
finished data set is extended: what it has stays byte for byte, and batches of the seeds after its own follow.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from grain.experimental import index_shuffle
from PIL import Image

from data_pipeline.draft import Draft
from data_pipeline.records.media import encode_png
from data_pipeline.seed import Seed
from data_pipeline.sources import SeedSource, SourceError
from data_pipeline.synthesis.captioner import Captioner, CaptionError
from data_pipeline.synthesis.checks import CheckError, check_trajectory
from data_pipeline.synthesis.duplicates import DuplicateFilter, Fingerprint, fingerprint
from data_pipeline.synthesis.policy_sampler import PolicySampler
from data_pipeline.synthesis.store import SynthesisStore
from data_pipeline.synthesis.summary import SynthesisSummary, read_settings, read_summary
from data_pipeline.synthesis.synthesizer import PROPOSED_BOX, MediaLoader, SynthesisError, Synthesizer
from data_pipeline.synthesis.templates import IMAGE_MIX, SAMPLED_MIX, VIDEO_MIX, check_mix
from pixel_reasoner_jax.endpoint import Spend
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, write_text
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.rollout.workers import Workers

SETTINGS_FILE = "settings.json"
SUMMARY_FILE = "synthesis.json"
REJECTED_FILE = "rejected.jsonl"

SeedIndex = tuple[int, int]
"""(number of the source, index of the entry in it)"""


@dataclasses.dataclass(frozen=True)
class SynthesisSettings:
    """What is to be made; equal settings make equal bytes.

    Attributes:
      sources: of seeds, by name.
      count: trajectories to make.
      seed: of all random choices.
      padding: of the crop operation, as a share of the image.
      box_rule: of the crop operation, whose description is part of every prompt; see `operations.CropImage`.
      image_mix, video_mix: the share of every kind of trajectory; normalized. Both `SAMPLED_MIX` for a `PolicySampler`.
      captioner: plain values that determine what the captioner writes.
      shard_size: seeds in a batch, whose trajectories become one shard.

    Raises:
      UserError: a value is out of range, or a mix has unknown kinds.
    """

    sources: Mapping[str, SeedSource]
    count: int
    seed: int = 0
    padding: float = 0.1
    box_rule: str = "shown"
    image_mix: Mapping[str, float] = dataclasses.field(default_factory=lambda: IMAGE_MIX)
    video_mix: Mapping[str, float] = dataclasses.field(default_factory=lambda: VIDEO_MIX)
    captioner: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shard_size: int = 128

    def __post_init__(self):
        if self.count < 1 or self.shard_size < 1:
            raise UserError(f"count and shard size must be at least 1, got {self.count} and {self.shard_size}")
        if self.seed < 0:
            raise UserError(f"a seed is 0 or more, got {self.seed}")
        if not self.sources:
            raise UserError("a synthesis needs at least one source")
        if not self.sampled:
            for mix in (self.image_mix, self.video_mix):
                check_mix(mix)

    @property
    def sampled(self) -> bool:
        """Whether a model of ours is sampled, in place of templates."""
        return self.image_mix == self.video_mix == SAMPLED_MIX

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values, in which a source is its number of entries."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["sources"] = {name: len(source) for name, source in self.sources.items()}
        return json.loads(json.dumps(fields, default=dict))


class OtherSynthesisError(UserError):
    """The folder holds a data set of other settings or of another origin; the message says which."""


class Synthesis:
    """Makes the data set that its settings describe.

    Args:
      settings: what to make.
      captioner: creates the captioner of one seed, called from any thread; or a sampler, which answers all of a batch.
      media: loads media and tells sizes.
      directory: of the data set; a synthesis with the same settings, or a smaller count, is continued.
      workers: threads that read, write and check.
    """

    def __init__(
        self,
        settings: SynthesisSettings,
        captioner: Callable[[], Captioner] | PolicySampler,
        media: MediaLoader,
        directory: str | os.PathLike,
        workers: int = 1,
    ):
        if workers < 1:
            raise UserError(f"workers must be at least 1, got {workers}")
        if settings.sampled != isinstance(captioner, PolicySampler):
            raise UserError("SAMPLED_MIX is for a PolicySampler, which takes no other mix")
        self._settings, self._captioner, self._media, self._workers = settings, captioner, media, workers
        self._names = list(settings.sources)
        self._sources = [settings.sources[name] for name in self._names]
        self._directory = as_path(directory)
        self._registry = default_registry(settings.padding, box_rule=settings.box_rule)

    def run(self, on_progress: Callable[[SynthesisSummary], None] = lambda summary: None) -> SynthesisSummary:
        """Makes the data set, or what is missing of it.

        Args:
          on_progress: called after every seed with the counts so far.

        Raises:
          OtherSynthesisError: the folder holds something else.
          EndpointError: the captioner's model cannot be used.
          UserError: no seed gave a trajectory.
        """
        finished, store = self._directory / SUMMARY_FILE, SynthesisStore(self._directory)
        before, unfinished = read_settings(finished), store.load_json(SETTINGS_FILE)
        if before is None and unfinished is None and store.is_complete:
            raise OtherSynthesisError(
                f"{self._directory} holds a data set that no synthesis made; choose another folder"
            )
        if unfinished is None or before is not None and unfinished["count"] <= before["count"]:
            store.clear()  # or a later extension would take what a killed run left there for its own
            unfinished = None
        if before == self._settings.to_json():
            return read_summary(finished)
        for settings in filter(None, (before, unfinished)):
            _check_settings(settings, self._settings, self._directory)
        summary = SynthesisSummary() if before is None else read_summary(finished)
        store.save_json(SETTINGS_FILE, self._settings.to_json())
        indices = round_robin([len(source) for source in self._sources], self._settings.seed)
        pool = Workers(self._workers)
        try:
            seen = self._seen_seeds(list(itertools.islice(indices, summary.seeds)), pool)
            rejected = self._rejections(summary.rejected.total())
            for number in itertools.count():
                notes = store.notes(number)
                made_before = notes is not None
                wanted = min(self._settings.shard_size, self._settings.count - summary.count)
                chosen = list(itertools.islice(indices, notes["seeds"] if made_before else wanted))
                if not chosen:
                    break
                if made_before:
                    for fields in notes["kept"]:
                        seen.add(Fingerprint(*fields))
                else:
                    notes = self._make_batch(store, number, chosen, seen, pool, summary, on_progress)
                summary.add(notes)
                rejected += notes["rejected"]
                if made_before:
                    on_progress(summary)
        finally:
            pool.close()  # a thread that waits for a model is not waited for
        lines = (json.dumps(rejection) + "\n" for rejection in rejected)
        write_text(self._directory / REJECTED_FILE, "".join(lines))
        if not summary.count:
            store.clear()  # with other sources, the same folder may be tried again
            raise UserError(
                f"none of {summary.seeds} seeds gave a trajectory; the first: {rejected[0]['message']}"
                f" ({self._directory / REJECTED_FILE} names them all)"
            )
        store.finish(summary.shards)
        shares = summary.shares(self._settings.image_mix, self._settings.video_mix)
        content = {"settings": self._settings.to_json(), "shares": shares, **summary.to_json()}
        write_text(finished, json.dumps(content, indent=1) + "\n")
        store.clear()
        return summary

    def _seen_seeds(self, indices: Sequence[SeedIndex], pool: Workers) -> DuplicateFilter:
        """The fingerprints of the seeds that a finished data set, which is to be extended, has used."""
        seen = DuplicateFilter()
        for found in _map_in_order(pool, self._fingerprint, indices):
            if isinstance(found, Fingerprint):
                seen.add(found)
        return seen

    def _rejections(self, count: int) -> list[dict[str, Any]]:
        """The rejections of a finished data set; a run that was killed may have added some that are made again."""
        if not count:
            return []
        lines = (self._directory / REJECTED_FILE).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[:count]]

    def _make_batch(
        self,
        store: SynthesisStore,
        number: int,
        indices: Sequence[SeedIndex],
        seen: DuplicateFilter,
        pool: Workers,
        before: SynthesisSummary,
        on_progress: Callable[[SynthesisSummary], None],
    ) -> dict[str, Any]:
        """Makes the trajectories of a batch of seeds and writes their shard; returns the notes of the batch."""
        rejected, drafts, kept, impossible, sources = [], [], [], collections.Counter(), []
        spend, chosen = Spend(), []
        for index, found in zip(indices, _map_in_order(pool, self._fingerprint, indices), strict=True):
            if isinstance(found, Fingerprint):
                repeats = seen.add(found)
                if repeats is None:
                    chosen.append(index)
                    kept.append(dataclasses.astuple(found))
                    continue
                found = self._rejection(index, "duplicate", repeats, found.id)
            rejected.append(found)
        shown = dataclasses.replace(before)
        results = self._sample(chosen) if self._settings.sampled else _map_in_order(pool, self._synthesize, chosen)
        for index, made in zip(chosen, results, strict=True):
            spend += made.spend
            impossible.update(made.impossible)
            if made.rejection is not None:
                rejected.append(made.rejection)
            else:
                drafts.append(made.draft)
                sources.append(self._names[index[0]])
            shown.count, shown.spend = before.count + len(drafts), before.spend + spend
            on_progress(shown)
        notes = {
            "seeds": len(indices),
            "kept": kept,
            "kinds": collections.Counter(draft.kind for draft in drafts),
            "videos": collections.Counter(draft.kind for draft in drafts if _shows_video(draft)),
            "impossible": impossible,
            "sources": collections.Counter(sources),
            "rejected": rejected,
            "spend": dataclasses.asdict(spend),
        }
        store.write(number, before.shards, drafts, notes)
        return notes

    def _fingerprint(self, index: SeedIndex) -> Fingerprint | dict[str, Any]:
        """The fingerprint of a seed, or its rejection."""
        try:
            return fingerprint(self._sources[index[0]][index[1]], self._media)
        except (SourceError, MediaError) as error:
            return self._rejection(index, "unreadable", error)

    def _synthesize(self, index: SeedIndex) -> _SeedResult:
        """The trajectory of a seed, or its rejection."""
        captioner = self._captioner()
        synthesizer = Synthesizer(
            self._registry,
            self._media,
            captioner,
            padding=self._settings.padding,
            image_mix=self._settings.image_mix,
            video_mix=self._settings.video_mix,
            seed=self._settings.seed,
        )
        seed = reason = fault = None
        try:
            seed = self._sources[index[0]][index[1]]
            draft = synthesizer(seed)
            cue = seed.cue or tuple(draft.attributes.get(PROPOSED_BOX, ()))
            check_trajectory(draft, dataclasses.replace(seed, cue=cue), self._media)
        except (SourceError, MediaError) as error:  # it was there a moment ago
            reason, fault = "unreadable", error
        except SynthesisError as error:
            reason, fault = "impossible", error
        except CaptionError as error:
            reason, fault = error.reason, error
        except CheckError as error:
            reason, fault = error.reason, error
        if fault is not None:
            rejection = self._rejection(index, reason, fault, seed and seed.id)
            return _SeedResult(captioner.spend, synthesizer.impossible, rejection=rejection)
        return _SeedResult(captioner.spend, synthesizer.impossible, _encoded(draft))

    def _sample(self, indices: Sequence[SeedIndex]) -> Iterator[_SeedResult]:
        """The trajectories of seeds by rejection sampling, in order, or their rejections."""
        seeds: list[Seed | dict[str, Any]] = []
        for index in indices:
            try:
                seeds.append(self._sources[index[0]][index[1]])
            except (SourceError, MediaError) as error:  # it was there a moment ago
                seeds.append(self._rejection(index, "unreadable", error))
        outcomes = self._captioner.sample([seed for seed in seeds if isinstance(seed, Seed)], self._settings.seed)
        for index, seed in zip(indices, seeds, strict=True):
            if not isinstance(seed, Seed):
                yield _SeedResult(Spend(), {}, rejection=seed)
                continue
            outcome = next(outcomes)
            if isinstance(outcome, Draft):
                yield _SeedResult(Spend(), {}, _encoded(outcome))
            else:
                rejection = self._rejection(index, outcome.reason, outcome, seed.id)
                yield _SeedResult(Spend(), {}, rejection=rejection)

    def _rejection(self, index: SeedIndex, reason: str, message: object, seed: str | None = None) -> dict[str, Any]:
        return {
            "source": self._names[index[0]],
            "entry": index[1],
            "id": seed,
            "reason": reason,
            "message": str(message),
        }


@dataclasses.dataclass(frozen=True)
class _SeedResult:
    """What a seed gave: a trajectory, or a rejection."""

    spend: Spend
    impossible: Mapping[str, int]
    draft: Draft | None = None
    rejection: dict[str, Any] | None = None


def round_robin(sizes: Sequence[int], seed: int) -> Iterator[SeedIndex]:
    """Every entry of every source once: one entry of each source in turn, each source in its own shuffled order."""
    for turn in range(max(sizes)):
        for number, size in enumerate(sizes):
            if turn < size:
                yield number, index_shuffle(turn, max_index=size - 1, seed=(seed + number) % 2**32, rounds=4)


def _map_in_order(pool: Workers, function: Callable[[SeedIndex], Any], indices: Sequence[SeedIndex]) -> Iterator[Any]:
    """The results of `function` for all `indices`, in their order; computed by the pool."""
    tasks = [pool.submit(function, index) for index in indices]
    for number, task in enumerate(tasks):
        yield task.future.result()
        tasks[number] = None  # or all results would be kept until the last one is used


def _encoded(draft: Draft) -> Draft:
    """The trajectory with its images as PNG files; encoding takes time, so that the workers do it."""

    def file(source: Any) -> Any:
        if isinstance(source, list):
            return [file(frame) for frame in source]
        return encode_png(source) if isinstance(source, Image.Image) else source

    def item(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {key: file(value) if key in ("image", "video") else value for key, value in fields.items()}

    messages = [{**message, "content": [item(fields) for fields in message["content"]]} for message in draft.messages]
    return dataclasses.replace(draft, messages=messages)


def _shows_video(draft: Draft) -> bool:
    return any(item["type"] == "video" for item in draft.messages[1]["content"])


def _check_settings(before: Mapping[str, Any], settings: SynthesisSettings, directory: object) -> None:
    """Checks that settings are those of the synthesis in a folder, but for a larger count, which extends it."""
    for name, value in settings.to_json().items():
        if before.get(name) != value and not (name == "count" and before[name] < value):
            raise OtherSynthesisError(
                f"{directory} holds a synthesis with other settings: its {name} is {before.get(name)!r}, now {value!r};"
                " choose another folder, or remove it"
            )
