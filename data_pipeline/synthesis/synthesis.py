"""A whole synthesis: seeds in a fixed order to checked trajectories on disk, resumable, the same for any workers.

Seeds are taken from all sources in turn, each source shuffled by the run's seed, and worked on in shards of consecutive
ones. All seeds of a shard are looked at first: those that cannot be read and near-duplicates are put aside before
anything is written about them. The others are written and checked in their order, and the shard is put on disk whole.
Shards follow until as many trajectories as wanted are there or no seeds are left. Which seeds a shard has depends on
what the earlier ones came to alone, so a run that was killed finds its place from what is on disk.
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
from data_pipeline.sources import SeedSource, SourceError
from data_pipeline.synthesis.captioner import Captioner, CaptionError, Spend
from data_pipeline.synthesis.checks import CheckError, check
from data_pipeline.synthesis.duplicates import DuplicateFilter, Fingerprint, fingerprint
from data_pipeline.synthesis.store import SynthesisStore
from data_pipeline.synthesis.synthesizer import MediaLoader, SynthesisError, Synthesizer
from data_pipeline.synthesis.templates import IMAGE_MIX, VIDEO_MIX, check_mix
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, write_text
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.rollout.workers import Workers

SETTINGS_FILE = "settings.json"
SUMMARY_FILE = "synthesis.json"
REJECTED_FILE = "rejected.jsonl"

SeedIndex = tuple[int, int]
"""Which source, and which of its entries."""


@dataclasses.dataclass(frozen=True)
class SynthesisSettings:
    """What is to be made; the same recipe makes the same bytes.

    Attributes:
      sources: what the seeds come from, by name.
      count: trajectories wanted.
      seed: of all choices.
      padding: of the crop operation.
      image_mix, video_mix: share of every kind of trajectory.
      captioner: what decides the text that is written: plain values.
      shard_size: seeds in a shard, which is written whole.
    """

    sources: Mapping[str, SeedSource]
    count: int
    seed: int = 0
    padding: float = 0.1
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
        for mix in (self.image_mix, self.video_mix):
            check_mix(mix)

    def settings(self) -> dict[str, Any]:
        """The recipe as plain values, to tell it from another one."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["sources"] = {name: len(source) for name, source in self.sources.items()}
        return json.loads(json.dumps(fields, default=dict))


@dataclasses.dataclass
class SynthesisSummary:
    """What came of a synthesis.

    Attributes:
      count: trajectories written.
      seeds: seeds used.
      shards: shards with trajectories.
      kinds: trajectories by kind.
      impossible: kinds drawn and given up because a seed's geometry does not allow them.
      rejected: seeds put aside, by reason.
      sources: trajectories by source.
      spend: of everything written, rejected and remembered text included.
    """

    count: int = 0
    seeds: int = 0
    shards: int = 0
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    impossible: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    sources: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    spend: Spend = Spend()

    def add(self, notes: Mapping[str, Any]) -> None:
        """Counts a shard."""
        self.seeds += notes["seeds"]
        self.count += sum(notes["kinds"].values())
        self.shards += bool(notes["kinds"])
        self.rejected.update(rejection["reason"] for rejection in notes["rejected"])
        self.spend += Spend(**notes["spend"])
        for name in ("kinds", "impossible", "sources"):
            getattr(self, name).update(notes[name])

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what depends on how often the run was interrupted."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        spend = dataclasses.asdict(fields.pop("spend"))
        fields = {name: dict(sorted(v.items())) if isinstance(v, dict) else v for name, v in fields.items()}
        return fields | {"spend": {name: value for name, value in spend.items() if not name.startswith("paid")}}


class OtherSynthesisError(UserError):
    """The folder holds another synthesis; the message names a setting that differs."""


class Synthesis:
    """Makes what a recipe says.

    Args:
      recipe: what to make.
      captioner: makes the writer of one seed's text; called from any thread.
      media: loads media and tells sizes.
      directory: of the data set; an unfinished synthesis of the same recipe in it goes on.
      workers: threads that read, write and check.
    """

    def __init__(
        self,
        recipe: SynthesisSettings,
        captioner: Callable[[], Captioner],
        media: MediaLoader,
        directory: str | os.PathLike,
        workers: int = 1,
    ):
        if workers < 1:
            raise UserError(f"workers must be at least 1, got {workers}")
        self._recipe, self._captioner, self._media, self._workers = recipe, captioner, media, workers
        self._names = list(recipe.sources)
        self._sources = [recipe.sources[name] for name in self._names]
        self._directory = as_path(directory)
        self._registry = default_registry(recipe.padding)

    def run(self, on_progress: Callable[[SynthesisSummary], None] = lambda summary: None) -> SynthesisSummary:
        """Makes the data set, or what is missing of it.

        Args:
          on_progress: called with what there is so far, seed by seed.

        Raises:
          OtherSynthesisError: see the class; EndpointError: the captioner's model cannot be asked.
        """
        finished, shards = self._directory / SUMMARY_FILE, SynthesisStore(self._directory)
        if finished.exists():
            _same_settings(json.loads(finished.read_text(encoding="utf-8"))["settings"], self._recipe, self._directory)
            shards.clear()
            return _read_summary(finished)
        before = shards.load_json(SETTINGS_FILE)
        if before is not None:
            _same_settings(before, self._recipe, self._directory)
        elif shards.complete:
            raise OtherSynthesisError(
                f"{self._directory} holds a data set that no synthesis made; choose another folder"
            )
        else:
            shards.save_json(SETTINGS_FILE, self._recipe.settings())
        summary, seen, rejected = SynthesisSummary(), DuplicateFilter(), []
        places = round_robin([len(source) for source in self._sources], self._recipe.seed)
        pool = Workers(self._workers)
        try:
            for number in itertools.count():
                wanted = min(self._recipe.shard_size, self._recipe.count - summary.count)
                chosen = list(itertools.islice(places, wanted))
                if not chosen:
                    break
                notes = shards.notes(number)
                made_before = notes is not None
                if made_before:
                    for fields in notes["kept"]:
                        seen.add(Fingerprint(*fields))
                else:
                    notes = self._make_batch(shards, number, chosen, seen, pool, summary, on_progress)
                summary.add(notes)
                rejected += notes["rejected"]
                if made_before:
                    on_progress(summary)
        finally:
            pool.close()  # a thread that waits for a model is not waited for
        if not summary.count:
            shards.clear()  # with other sources, the same folder may be tried again
            raise UserError(f"none of {summary.seeds} seeds gave a trajectory; the first: {rejected[0]['message']}")
        lines = (json.dumps(rejection) + "\n" for rejection in rejected)
        write_text(self._directory / REJECTED_FILE, "".join(lines))
        shards.finish(summary.shards)
        content = {"settings": self._recipe.settings(), **summary.to_json()}
        write_text(finished, json.dumps(content, indent=1) + "\n")
        shards.clear()
        return summary

    def _make_batch(
        self,
        shards: SynthesisStore,
        number: int,
        places: Sequence[SeedIndex],
        seen: DuplicateFilter,
        pool: Workers,
        before: SynthesisSummary,
        on_progress: Callable[[SynthesisSummary], None],
    ) -> dict[str, Any]:
        """Works on the seeds of a shard and writes it; returns what is noted with it."""
        rejected, drafts, kept, kinds, impossible, sources = [], [], [], [], collections.Counter(), []
        spend, chosen = Spend(), []
        for place, found in zip(places, _map_in_order(pool, self._fingerprint, places), strict=True):
            if isinstance(found, Fingerprint):
                repeats = seen.add(found)
                if repeats is None:
                    chosen.append(place)
                    kept.append(dataclasses.astuple(found))
                    continue
                found = self._rejection(place, "duplicate", repeats, found.id)
            rejected.append(found)
        shown = dataclasses.replace(before)
        for place, made in zip(chosen, _map_in_order(pool, self._synthesize, chosen), strict=True):
            spend += made.spend
            impossible.update(made.impossible)
            if made.rejection is not None:
                rejected.append(made.rejection)
            else:
                drafts.append(made.draft)
                kinds.append(made.draft.kind)
                sources.append(self._names[place[0]])
            shown.count, shown.spend = before.count + len(drafts), before.spend + spend
            on_progress(shown)
        notes = {
            "seeds": len(places),
            "kept": kept,
            "kinds": collections.Counter(kinds),
            "impossible": impossible,
            "sources": collections.Counter(sources),
            "rejected": rejected,
            "spend": dataclasses.asdict(spend),
        }
        shards.write(number, before.shards, drafts, notes)
        return notes

    def _fingerprint(self, place: SeedIndex) -> Fingerprint | dict[str, Any]:
        """The fingerprint of a seed, or why it cannot be read."""
        try:
            return fingerprint(self._sources[place[0]][place[1]], self._media)
        except (SourceError, MediaError) as error:
            return self._rejection(place, "unreadable", error)

    def _synthesize(self, place: SeedIndex) -> _SeedResult:
        """The trajectory of a seed, or why there is none."""
        captioner = self._captioner()
        synthesizer = Synthesizer(
            self._registry,
            self._media,
            captioner,
            padding=self._recipe.padding,
            image_mix=self._recipe.image_mix,
            video_mix=self._recipe.video_mix,
            seed=self._recipe.seed,
        )
        seed = reason = fault = None
        try:
            seed = self._sources[place[0]][place[1]]
            draft = synthesizer(seed)
            check(draft, seed, self._media)
        except (SourceError, MediaError) as error:  # it was there a moment ago
            reason, fault = "unreadable", error
        except SynthesisError as error:
            reason, fault = "impossible", error
        except CaptionError as error:
            reason, fault = "caption", error
        except CheckError as error:
            reason, fault = error.reason, error
        if fault is not None:
            rejection = self._rejection(place, reason, fault, seed and seed.id)
            return _SeedResult(captioner.spend, synthesizer.impossible, rejection=rejection)
        return _SeedResult(captioner.spend, synthesizer.impossible, _encoded(draft))

    def _rejection(self, place: SeedIndex, reason: str, message: object, seed: str | None = None) -> dict[str, Any]:
        return {
            "source": self._names[place[0]],
            "entry": place[1],
            "id": seed,
            "reason": reason,
            "message": str(message),
        }


@dataclasses.dataclass(frozen=True)
class _SeedResult:
    """What came of a seed: a trajectory, or a rejection."""

    spend: Spend
    impossible: Mapping[str, int]
    draft: Draft | None = None
    rejection: dict[str, Any] | None = None


def round_robin(sizes: Sequence[int], seed: int) -> Iterator[SeedIndex]:
    """Every entry of every source once: one of each source in turn, each source in a shuffled order of its own."""
    for turn in range(max(sizes)):
        for number, size in enumerate(sizes):
            if turn < size:
                yield number, index_shuffle(turn, max_index=size - 1, seed=(seed + number) % 2**32, rounds=4)


def _map_in_order(pool: Workers, function: Callable[[SeedIndex], Any], places: Sequence[SeedIndex]) -> Iterator[Any]:
    """What the function makes of every place, in their order."""
    tasks = [pool.submit(function, place) for place in places]
    for number, task in enumerate(tasks):
        yield task.future.result()
        tasks[number] = None  # or all results would be kept until the last one is used


def _encoded(draft: Draft) -> Draft:
    """The trajectory with its media as files: what takes time is done here, by a worker."""

    def file(source: Any) -> Any:
        if isinstance(source, list):
            return [file(frame) for frame in source]
        return encode_png(source) if isinstance(source, Image.Image) else source

    def item(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {key: file(value) if key in ("image", "video") else value for key, value in fields.items()}

    messages = [{**message, "content": [item(fields) for fields in message["content"]]} for message in draft.messages]
    return dataclasses.replace(draft, messages=messages)


def _same_settings(before: Mapping[str, Any], recipe: SynthesisSettings, directory: object) -> None:
    for name, value in recipe.settings().items():
        if before.get(name) != value:
            raise OtherSynthesisError(
                f"{directory} holds a synthesis with other settings: its {name} is {before.get(name)!r}, now {value!r};"
                " choose another folder, or remove it"
            )


def _read_summary(path: Any) -> SynthesisSummary:
    fields = json.loads(path.read_text(encoding="utf-8"))
    del fields["settings"]
    counters = {name: collections.Counter(value) for name, value in fields.items() if isinstance(value, dict)}
    return SynthesisSummary(**{**fields, **counters, "spend": Spend(**fields["spend"])})
