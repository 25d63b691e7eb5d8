"""A stored trajectory, with what its attributes say of it, as pages show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipeline.draft import Draft
from pixel_reasoner_jax.report.entries import Facts, numbers_of
from pixel_reasoner_jax.report.trajectory_json import finite
from pixel_reasoner_jax.trajectory import Ended, Trajectory

OBJECT_BOXES = ("pixel_box", "object_box", "proposed_box")  # attributes with the box that is asked about


def described(draft: Draft, group: str) -> tuple[Trajectory, Facts]:
    """The trajectory without tokens, and the facts that a run, a synthesis or an import has stored with it.

    Args:
      draft: whose attributes may hold anything: what is of no use is left out.
      group: what it belongs to.
    """
    attributes = draft.attributes
    trajectory, terms = draft.without_tokens(), numbers_of(attributes.get("reward_terms"))
    sample, ended = attributes.get("sample"), attributes.get("ended")
    trajectory.sample = sample if type(sample) is int and 0 <= sample < 2**31 else 0
    trajectory.ended = Ended(ended) if ended in list(Ended) else None
    score = terms.get("correct")
    facts = Facts(
        group=group,
        score=score if score is not None and 0 <= score <= 1 else None,
        categories=[draft.kind] if draft.kind and draft.kind != "rollout" else [],
        reward=finite(attributes.get("reward")),
        advantage=finite(attributes.get("advantage")),
        terms=terms,
        object_box=object_box(attributes),
    )
    return trajectory, facts


def object_box(attributes: Mapping[str, Any]) -> list[float] | None:
    """What the question is about, in pixels of the query's image: left, top, right, bottom; None where nothing says."""
    for name in OBJECT_BOXES:
        box = attributes.get(name)
        if isinstance(box, list | tuple) and len(box) == 4 and all(finite(number) is not None for number in box):
            left, top, right, bottom = map(float, box)
            if 0 <= left < right and 0 <= top < bottom:
                return [left, top, right, bottom]
    return None
