"""Makes a trajectory from a seed: draws its kind, plans it, and executes its operations."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from data_pipeline.draft import Draft
from data_pipeline.seed import Seed
from data_pipeline.synthesis.captioner import Captioner
from data_pipeline.synthesis.legibility import is_legible
from data_pipeline.synthesis.templates import (
    IMAGE_MIX,
    TEMPLATES,
    VIDEO_MIX,
    OperationTurn,
    TemplateContext,
    TrajectoryPlan,
    check_mix,
)
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call, MediaState, OperationError, Registry
from pixel_reasoner_jax.processing import Budgets, Video, load_image, load_video, smart_resize
from pixel_reasoner_jax.processing.loading import ImageSource
from pixel_reasoner_jax.rollout.prompt import default_guidelines, query_messages
from pixel_reasoner_jax.trajectory import OperationRecord

SMALLEST_CROP = 30
"""Smallest side, in pixels, of a wrong box: the operation refuses crops of 28 or less."""

PROPOSED_BOX = "proposed_box"
"""The attribute of a trajectory that has the box which the captioner proposed for a seed without one."""

PlanRevision = Callable[[TrajectoryPlan, Seed, np.random.Generator], TrajectoryPlan]


class MediaLoader(Protocol):
    """The part of a `Processor` that synthesis needs: it loads images and videos, and tells sizes after resizing."""

    def load_image(self, source: ImageSource) -> Image.Image: ...

    def load_video(self, source: Any, fps: float | None = None) -> Video: ...

    def resized(self, size: tuple[int, int], kind: str = "image") -> tuple[int, int]: ...


@dataclasses.dataclass(frozen=True)
class BudgetMediaLoader:
    """A `MediaLoader` that needs no tokenizer, only budgets.

    Attributes:
      budgets: tokens for every kind of image, and the number of frames of a video.
    """

    budgets: Budgets = Budgets()

    def load_image(self, source: ImageSource) -> Image.Image:
        return load_image(source)

    def load_video(self, source: Any, fps: float | None = None) -> Video:
        return load_video(source, self.budgets.video_frames, fps, self.budgets.video_rate)

    def resized(self, size: tuple[int, int], kind: str = "image") -> tuple[int, int]:
        return smart_resize(size, self.budgets.of(kind))


class SynthesisError(UserError):
    """No trajectory can be made from a seed; the message names it."""


class Synthesizer:
    """Makes one trajectory from a seed of data; random choices depend on its id and on `seed` only.

    Args:
      registry: the operations, as rollouts use them.
      processor: loads media and tells their sizes after resizing: a `Processor` or `BudgetMediaLoader`.
      captioner: writes the passages.
      padding: by which the registry's crop operation widens boxes; wrong crops miss the cue even so.
      image_mix, video_mix: the share of every kind of trajectory; normalized.
      guidelines: the text after the question; None for the paper's.
      revise: changes a plan before it is run; None for no change.
      seed: of all random choices.

    Attributes:
      counts: trajectories made, by kind.
      impossible: by kind, how often it was drawn for a seed whose geometry does not allow it, or whose crop the
        operation refuses.

    Raises:
      UserError: a mix has unknown kinds or invalid shares.
    """

    def __init__(
        self,
        registry: Registry,
        processor: MediaLoader,
        captioner: Captioner,
        *,
        padding: float = 0.1,
        image_mix: Mapping[str, float] = IMAGE_MIX,
        video_mix: Mapping[str, float] = VIDEO_MIX,
        guidelines: str | None = None,
        revise: PlanRevision | None = None,
        seed: int = 0,
    ):
        for mix in (image_mix, video_mix):
            check_mix(mix)
        self._registry, self._processor, self._captioner = registry, processor, captioner
        self._padding, self._image_mix, self._video_mix = padding, dict(image_mix), dict(video_mix)
        self._guidelines, self._revise, self._seed = guidelines, revise, seed
        self.counts: collections.Counter[str] = collections.Counter()
        self.impossible: collections.Counter[str] = collections.Counter()

    def __call__(self, seed: Seed) -> Draft:
        """Makes the trajectory of a seed.

        Raises:
          SynthesisError: no kind of trajectory is possible; where an operation fails, it says why.
          CaptionError: a text cannot be written.
          MediaError: an image or a video cannot be loaded.
        """
        digest = hashlib.blake2b(seed.id.encode("utf-8", "replace"), digest_size=8).digest()
        rng = np.random.default_rng((self._seed, int.from_bytes(digest, "little")))
        images = [self._processor.load_image(image) for image in seed.images]
        frames = None
        if seed.video is not None:
            video = self._processor.load_video(seed.video, seed.fps)
            frames = video.frames
            try:
                seed = seed.with_frames(video.times)
            except UserError as error:
                raise SynthesisError(str(error)) from None
            if seed.cue and max(seed.cue) > len(frames):  # before a captioner is asked about it
                raise SynthesisError(f"seed {seed.id}: its evidence is frame {max(seed.cue)} of {len(frames)}")
        if not seed.cue:
            seed = self._captioner.add_cue(seed)
            seed = dataclasses.replace(seed, attributes={**seed.attributes, PROPOSED_BOX: list(seed.cue)})
        elif not seed.question:
            seed = self._captioner.add_question(seed)
        draft = self._make(self._context(seed, images, len(frames or ()), rng), images, frames)
        self.counts[draft.kind] += 1
        return draft

    def _context(self, seed: Seed, images: list, frames: int, rng: np.random.Generator) -> TemplateContext:
        context = TemplateContext(seed, self._captioner, rng, padding=self._padding, frames=frames)
        if not images:
            return context
        size = images[0].size
        least = tuple(SMALLEST_CROP / side for side in size)
        legible = is_legible(seed, self._processor.resized(size))
        return dataclasses.replace(context, least=least, size=size, legible=legible)

    def _make(self, context: TemplateContext, images: list[Image.Image], frames: Sequence[Image.Image] | None) -> Draft:
        """Makes a trajectory of a random kind.

        If the seed's geometry does not allow the kind, or an operation of it fails, draws another.
        """
        seed, resized = context.seed, self._processor.resized
        problem = SynthesisError(f"seed {seed.id}: its geometry allows no kind of trajectory of this mix")
        mix = dict(self._video_mix if context.frames else self._image_mix)
        while any(mix.values()):
            shares = np.array(list(mix.values()))
            kind = list(mix)[context.rng.choice(len(mix), p=shares / shares.sum())]
            if (plan := TEMPLATES[kind](context)) is not None:
                if self._revise is not None:
                    plan = self._revise(plan, seed, context.rng)
                state = MediaState.from_query(images=images, video_frames=frames, resized=resized)
                try:
                    return run_plan(plan, seed, state, self._registry, resized, self._guidelines)
                except SynthesisError as error:
                    problem = error
            self.impossible[kind] += 1
            del mix[kind]
        raise problem


def run_plan(
    plan: TrajectoryPlan,
    seed: Seed,
    state: MediaState,
    registry: Registry,
    resized: Callable[[tuple[int, int], str], tuple[int, int]],
    guidelines: str | None = None,
) -> Draft:
    """Turns a plan into a trajectory, executing its operations as a rollout would.

    Args:
      plan: what to say and do.
      seed: the query.
      state: the query's media, unresized; what operations return is added to it.
      registry: the operations.
      resized: (size, kind) to the size the model sees, as `Processor.resized`.
      guidelines: the text after the question; None for the paper's.

    Raises:
      SynthesisError: an operation fails.
    """
    guidelines = default_guidelines(registry) if guidelines is None else guidelines
    messages = query_messages(seed.query(), registry.tools_section(state), guidelines)
    operations = []
    for number, turn in enumerate(plan.turns):
        try:
            written = registry.write(turn.call)
            messages.append(_assistant(turn, written))
            call = registry.parse(written)
            if not isinstance(call, Call):
                raise OperationError(f"the call cannot be read: {call}")
            result = registry.execute(call, state)
        except OperationError as error:
            raise SynthesisError(f"seed {seed.id}: {turn.name} {turn.arguments} failed: {error}") from error
        sizes = tuple(resized(image.size, result.kind) for image in result.images)
        content = [{"type": "text", "text": registry.observation_text(call, result, sizes)}]
        content += [{"type": "image", "image": image, "kind": result.kind} for image in result.images]
        messages.append({"role": "user", "content": content})
        outcome = {"boxes": tuple(result.boxes), "sizes": sizes, "sources": tuple(result.sources)}
        operations.append(OperationRecord(number, call.name, call.arguments, **outcome))
    messages.append({"role": "assistant", "content": [{"type": "text", "text": plan.answer, "train": True}]})
    return Draft(
        query_id=seed.id,
        question=seed.question,
        reference=seed.answer,
        kind=plan.kind,
        messages=messages,
        operations=tuple(operations),
        attributes=dict(seed.attributes),
    )


def _assistant(turn: OperationTurn, call: str) -> dict[str, Any]:
    """The message of a turn, and `call` at its end. A mistaken call carries no loss, nor does the end of its turn."""
    return {
        "role": "assistant",
        "content": [
            {"type": "text", "text": f"{turn.text}\n", "train": True},
            {"type": "text", "text": call, "train": not turn.mistaken},
        ],
    }
