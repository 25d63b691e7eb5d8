"""The kinds of trajectory (paper, section 4.1 and appendix C.2), each a function from a seed to a plan.

A plan says what is written and which operations are called, in order. Calls that are mistaken on purpose are flagged:
they are executed and shown like any other, but carry no loss.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_pipeline.seed import Seed
from data_pipeline.synthesis.captioner import Captioner, Passage
from data_pipeline.synthesis.mistakes import disjoint_box, disjoint_frames, larger_box, outer_box
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call

IMAGE_MIX: Mapping[str, float] = {
    "single_pass": 0.3 * 5500 / 7500,
    "recrop_once": 0.2 * 5500 / 7500,
    "recrop_twice": 0.2 * 5500 / 7500,
    "further_zoom": 0.3 * 5500 / 7500,
    "text_only": 2000 / 7500,
}
"""The paper's shares for images: 5,500 trajectories with operations and 2,000 without."""

VIDEO_MIX: Mapping[str, float] = {
    "single_pass": 0.9 * 5500 / 7500,
    "reselect": 0.1 * 5500 / 7500,
    "text_only": 2000 / 7500,
}
"""The paper's shares for videos."""

SAMPLED = "sampled"
SAMPLED_MIX: Mapping[str, float] = {SAMPLED: 1.0}
"""In place of both mixes where a model of ours is sampled, and not a template filled in."""

FURTHER = 4.0
"""The first crop of a further zoom has at least so many times the pixels of the second one, both as returned."""


@dataclasses.dataclass(frozen=True)
class OperationTurn:
    """A turn of the assistant that ends in a call.

    Attributes:
      text: what is written before the call.
      name, arguments: of the operation.
      mistaken: whether the call is wrong on purpose.
    """

    text: str
    name: str
    arguments: dict[str, Any]
    mistaken: bool = False

    @property
    def call(self) -> Call:
        """Of the operation."""
        return Call(self.name, self.arguments)


@dataclasses.dataclass(frozen=True)
class TrajectoryPlan:
    """What a trajectory will say: `turns` with operations, then the last turn with the answer."""

    kind: str
    turns: tuple[OperationTurn, ...]
    answer: str


@dataclasses.dataclass(frozen=True)
class TemplateContext:
    """What a template is given to plan with.

    Attributes:
      seed: the annotated query.
      captioner: writes the passages.
      rng: of all random choices.
      padding: by which the crop operation widens boxes.
      least: smallest (width, height) of a wrong box, as a share of the image.
      size: (width, height) in pixels of the image to crop.
      legible: whether the evidence can be seen without an operation.
      frames: the number of sampled frames of a video; 0 for images.
    """

    seed: Seed
    captioner: Captioner
    rng: np.random.Generator
    padding: float = 0.1
    least: tuple[float, float] = (0.05, 0.05)
    size: tuple[int, int] = (1000, 1000)
    legible: bool = True
    frames: int = 0

    def write(self, passage: Passage, target: tuple = ()) -> str:
        return self.captioner.write(self.seed, passage, target)

    def turn(self, passage: Passage, target: tuple, seen: tuple = (), mistaken: bool = False) -> OperationTurn:
        """A turn that begins with `passage`, about what was `seen` last, and calls for `target`, a box or frames."""
        subject = self.write(Passage.SUBJECT, self.seed.cue)
        if self.frames:
            lead = f"Now I will select some frames to look clearer at {subject}."
            name, arguments = "select_frames", {"target_frames": list(target)}
        else:
            lead = f"Now I will zoom in to look clearer at {subject}."
            name, arguments = "crop_image_normalized", {"bbox_2d": list(outer_box(target)), "target_image": 1}
        return OperationTurn(_joined(self.write(passage, seen), lead), name, arguments, mistaken)

    def wrong_box(self, previous: tuple = ()) -> tuple | None:
        """A box that misses the cue. If the seed has candidates, it is one of them, but not `previous`."""
        candidates = [box for box in self.seed.candidates if box != previous]
        if self.seed.candidates and not candidates:
            return None
        return disjoint_box(self.seed.cue, self.rng, padding=self.padding, least=self.least, candidates=candidates)

    def plan(self, kind: str, *turns: OperationTurn, passage: Passage = Passage.EVIDENCE) -> TrajectoryPlan:
        seen = self.seed.cue if turns else ()
        return TrajectoryPlan(
            kind, turns, _joined(self.write(passage, seen), f"The answer is \\boxed{{{self.seed.text_answer}}}.")
        )


Template = Callable[[TemplateContext], TrajectoryPlan | None]
"""Plans one kind of trajectory; returns None if the seed's geometry does not allow it."""


def text_only(context: TemplateContext) -> TrajectoryPlan | None:
    """An answer without operations, which says that none is needed."""
    if not context.legible:
        return None
    return context.plan("text_only", passage=Passage.REASONING)


def single_pass(context: TemplateContext) -> TrajectoryPlan:
    """The right operation at once."""
    return context.plan("single_pass", context.turn(Passage.OVERVIEW, context.seed.cue))


def recrop_once(context: TemplateContext) -> TrajectoryPlan | None:
    """A box that misses the cue, then the right one."""
    if context.frames or (wrong := context.wrong_box()) is None:
        return None
    return context.plan(
        "recrop_once",
        context.turn(Passage.OVERVIEW, wrong, mistaken=True),
        context.turn(Passage.MISTAKE, context.seed.cue, seen=wrong),
    )


def recrop_twice(context: TemplateContext) -> TrajectoryPlan | None:
    """Two boxes that miss the cue, then the right one."""
    if context.frames or (first := context.wrong_box()) is None or (second := context.wrong_box(first)) is None:
        return None
    return context.plan(
        "recrop_twice",
        context.turn(Passage.OVERVIEW, first, mistaken=True),
        context.turn(Passage.MISTAKE, second, seen=first, mistaken=True),
        context.turn(Passage.MISTAKE, context.seed.cue, seen=second),
    )


def further_zoom(context: TemplateContext) -> TrajectoryPlan | None:
    """A box that contains the cue and shows far more than the right one, which follows."""
    if context.frames:
        return None
    wide = larger_box(context.seed.cue, context.rng, context.size, padding=context.padding, factor=FURTHER)
    if wide is None:
        return None
    return context.plan(
        "further_zoom",
        context.turn(Passage.OVERVIEW, wide, mistaken=True),
        context.turn(Passage.TOO_SMALL, context.seed.cue, seen=wide),
    )


def reselect(context: TemplateContext) -> TrajectoryPlan | None:
    """Frames that miss the cue, then the right ones."""
    if not context.frames or (wrong := disjoint_frames(context.seed.cue, context.frames, context.rng)) is None:
        return None
    return context.plan(
        "reselect",
        context.turn(Passage.OVERVIEW, wrong, mistaken=True),
        context.turn(Passage.MISTAKE, context.seed.cue, seen=wrong),
    )


TEMPLATES: Mapping[str, Template] = {
    template.__name__: template
    for template in (text_only, single_pass, recrop_once, recrop_twice, further_zoom, reselect)
}


def _joined(*texts: str) -> str:
    return " ".join(text for text in texts if text)


def check_mix(mix: Mapping[str, float]) -> None:
    """Checks that kinds can be drawn by their shares.

    Raises:
      UserError: a kind is unknown, a share is negative or not finite, or all are 0.
    """
    if unknown := sorted(set(mix) - set(TEMPLATES)):
        raise UserError(f"unknown kinds of trajectory {unknown}, expected some of {sorted(TEMPLATES)}")
    if not all(0 <= share < math.inf for share in mix.values()) or not any(mix.values()):
        raise UserError(f"shares of trajectories must be positive, got {dict(mix)}")
