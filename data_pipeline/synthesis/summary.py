"""The counts of a synthesis, as they are added up batch by batch, printed, and stored beside the data set."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from data_pipeline.synthesis.captioner import UnconfirmedBoxError
from pixel_reasoner_jax.endpoint import Spend


@dataclasses.dataclass
class SynthesisSummary:
    """The counts of a synthesis.

    Attributes:
      count: trajectories written.
      seeds: seeds used.
      shards: shards written.
      kinds: trajectories by kind.
      videos: those of them that are about videos, by kind.
      impossible: by kind, how often it was drawn for a seed whose geometry does not allow it.
      rejected: rejected seeds by reason.
      unconfirmed: the ids of those for which a box was proposed and not kept.
      sources: trajectories by source.
      spend: cost of all texts, those of rejected seeds and those from the cache included.
    """

    count: int = 0
    seeds: int = 0
    shards: int = 0
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    videos: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    impossible: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    unconfirmed: list[str] = dataclasses.field(default_factory=list)
    sources: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    spend: Spend = Spend()

    def add(self, notes: Mapping[str, Any]) -> None:
        """Adds the notes of a batch."""
        self.seeds += notes["seeds"]
        self.count += sum(notes["kinds"].values())
        self.shards += bool(notes["kinds"])
        self.rejected.update(rejection["reason"] for rejection in notes["rejected"])
        self.unconfirmed += [one["id"] for one in notes["rejected"] if one["reason"] == UnconfirmedBoxError.reason]
        self.spend += Spend(**notes["spend"])
        for name in ("kinds", "videos", "impossible", "sources"):
            getattr(self, name).update(notes[name])

    def shares(
        self, image_mix: Mapping[str, float], video_mix: Mapping[str, float]
    ) -> dict[str, dict[str, dict[str, float]]]:
        """For images and videos, as far as there are any: of every kind the share that was wanted and that was made."""
        found = {}
        for medium, mix, made in (
            ("image", image_mix, self.kinds - self.videos),
            ("video", video_mix, self.videos),
        ):
            if total := made.total():
                whole = sum(mix.values())
                kinds = [kind for kind in mix if mix[kind] > 0 or made[kind]]
                found[medium] = {kind: {"wanted": mix[kind] / whole, "made": made[kind] / total} for kind in kinds}
        return found

    def to_json(self) -> dict[str, Any]:
        """The counts as plain JSON values, without those that depend on interruptions of the run."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        spend = dataclasses.asdict(fields.pop("spend"))
        fields = {name: dict(sorted(v.items())) if isinstance(v, dict) else v for name, v in fields.items()}
        return fields | {"spend": {name: value for name, value in spend.items() if not name.startswith("paid")}}


def read_settings(path: Any) -> dict[str, Any] | None:
    """The settings in the summary of a finished synthesis; None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["settings"] if path.exists() else None


def read_summary(path: Any) -> SynthesisSummary:
    """The counts in the summary of a finished synthesis."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    for derived in ("settings", "shares"):
        fields.pop(derived, None)
    counters = {name: collections.Counter(value) for name, value in fields.items() if isinstance(value, dict)}
    return SynthesisSummary(**{**fields, **counters, "spend": Spend(**fields["spend"])})
