"""A stored trajectory, with what its attributes say of it, as pages show it."""

from __future__ import annotations

from data_pipeline.draft import Draft
from data_pipeline.logged_tokens import LoggedTokens
from pixel_reasoner_jax.query import object_box
from pixel_reasoner_jax.report.entries import Facts, numbers_of
from pixel_reasoner_jax.report.images import image_size
from pixel_reasoner_jax.report.trajectory_json import finite
from pixel_reasoner_jax.trajectory import Ended, Trajectory


def described(draft: Draft, group: str) -> tuple[Trajectory, Facts]:
    """The trajectory, with tokens if a run has stored them, and the facts that are stored with it.

    Args:
      draft: whose attributes may hold anything: what is of no use is left out.
      group: what it belongs to.

    Raises:
      UserError: there are tokens, and they do not fit together.
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
        object_box=object_box(attributes, lambda: _first_size(draft)),
    )
    if isinstance(attributes.get("tokens"), dict):
        logged = LoggedTokens.of(draft)
        trajectory.tokens, trajectory.source, trajectory.logprobs = logged.tokens, logged.source, logged.logprobs
        facts.trainer = logged.trainer_logprobs
    return trajectory, facts


def _first_size(draft: Draft) -> tuple[int, int] | None:
    """(width, height) in pixels of the first image of a trajectory; None where there is none."""
    items = (item for message in draft.messages for item in message["content"])
    return next((image_size(item["image"]) for item in items if item.get("type") == "image"), None)
