"""What the quickstart's small model is taught in the pixel-search world, before reinforcement learning.

First a pretraining, in place of a pretrained model: where the coloured box is, which colour it has, and which digit a
crop shows. Then a warm start that is poor on purpose. It teaches the form of answers and operations, but mostly with
guesses and misplaced boxes, so that at first an answer after zooming is no better than one without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.draft import Draft
from data_pipeline.seed import Seed
from data_pipeline.sources.pixel_search import CELL_BOXES, DIGITS, LABEL, PixelSearch
from data_pipeline.sources.pixel_search_video import FRAMES, PixelSearchVideo
from data_pipeline.synthesis import (
    TEMPLATES,
    Passage,
    Synthesizer,
    TemplateCaptioner,
    TemplateContext,
    TrajectoryPlan,
    run_plan,
)
from data_pipeline.tokenizer import conversation_texts, save_processor, train_tokenizer
from pixel_reasoner_jax.operations import Call, MediaState, OperationError, Registry, error_text
from pixel_reasoner_jax.processing import Budgets, Processor, smart_resize
from pixel_reasoner_jax.rollout.prompt import default_guidelines, query_messages

BUDGETS = Budgets(image=(16, 20), crop=(16, 20), frame=(16, 20), video=(4, 8), video_frames=8)
"""112x112 pixels, or 16 tokens, for the canvas and for a crop; crops that are not quite square need up to 20.

The world of images has no videos; the budget for them keeps a video that a user asks about to the lengths that the
model knows.
"""

PADDING = 0.01
"""Of the crop operation: `CELL_BOXES` widened by it are exactly the cells, so that all crops have the same scale."""

WARM_START_MIX = {"text_only": 0.65, "single_pass": 0.25, "recrop_once": 0.1}
VIDEO_WARM_START_MIX = {"text_only": 0.65, "single_pass": 0.25, "reselect": 0.1}
UNCORRECTED_MIX = {"text_only": 0.65, "single_pass": 0.35}


@dataclasses.dataclass(frozen=True)
class World:
    """A procedural world, and how it is shown.

    Attributes:
      source: makes its seeds.
      budgets: of tokens; no digit can be seen in what the query shows.
      mix: kinds of trajectory of the warm start.
      request: asks for the operation that shows the digit.
    """

    source: type[PixelSearch]
    budgets: Budgets
    mix: Mapping[str, float]
    request: str


WORLDS = {
    "images": World(PixelSearch, BUDGETS, WARM_START_MIX, f"Zoom in on the {LABEL}."),
    "videos": World(
        PixelSearchVideo,
        dataclasses.replace(BUDGETS, video=(1, 1)),
        VIDEO_WARM_START_MIX,
        f"Select the frames of the {LABEL}.",
    ),
}

WORLD_PHRASES = {
    Passage.OVERVIEW: "",
    Passage.SUBJECT: f"the {LABEL}",
    Passage.MISTAKE: "It is not here.",
    Passage.TOO_SMALL: "It is too small.",
    Passage.EVIDENCE: "",
    Passage.REASONING: "",
}


def captioner() -> TemplateCaptioner:
    """A captioner with the few phrases of this world."""
    return TemplateCaptioner(WORLD_PHRASES)


def place_lesson(seed: Seed, registry: Registry) -> list[dict[str, Any]]:
    """A conversation about where the coloured box is: the answer is a call that zooms in on it, or selects frames."""
    turn = _context(seed).turn(Passage.OVERVIEW, seed.cue)
    request = WORLDS["images" if seed.video is None else "videos"].request
    return _lesson(registry, seed, request, f"{turn.text}\n{registry.write(turn.call)}")


def reading_lesson(seed: Seed, registry: Registry) -> list[dict[str, Any]]:
    """A conversation about a digit in a crop of the coloured box, or in its frames, which come last, as in rollouts."""
    if seed.video is None:
        call, kind = Call("crop_image_normalized", {"bbox_2d": list(seed.cue), "target_image": 1}), "crop"
    else:
        call, kind = Call("select_frames", {"target_frames": list(seed.cue)}), "frame"
    shown = [_picture(image, kind) for image in registry.execute(call, _state(seed)).images]
    system, _, assistant = _lesson(registry, seed, seed.question, _answer(seed.text_answer))
    return [system, {"role": "user", "content": [_text(seed.question), *shown]}, assistant]


def color_lesson(seed: Seed, registry: Registry) -> list[dict[str, Any]]:
    """A conversation about the colour of the coloured box."""
    return _lesson(registry, seed, f"Which color is on the {LABEL}?", _answer(seed.attributes["color"]))


LESSON_WRITERS = {"place": place_lesson, "reading": reading_lesson, "color": color_lesson}
LESSONS = ("place", "reading", "place", "color", "place")  # places are the hardest to learn


def pretraining(count: int, registry: Registry, seed: int = 0, world: str = "images") -> Iterator[Draft]:
    """`count` lessons of the kinds `LESSONS` in turn, each about another canvas; all answers are equally likely."""
    seeds = WORLDS[world].source(count, split="pretrain", seed=seed, favoured=None)
    for index in range(count):
        lesson, kind = seeds[index], LESSONS[index % len(LESSONS)]
        messages = LESSON_WRITERS[kind](lesson, registry)
        yield Draft(lesson.id, lesson.question, lesson.answer, kind, messages, attributes=dict(lesson.attributes))


@dataclasses.dataclass(frozen=True)
class PoorTeacher:
    """A revision of plans that moves boxes elsewhere and replaces unseen answers by guesses.

    Attributes:
      misplaced: probability that a trained box is replaced by that of a random cell, or trained frames by a random one.
      favoured: probability that an answer without operations is the colour's favoured digit; otherwise it is a random
        other digit. An answer after an operation that misses the cue is a random digit.
    """

    misplaced: float = 1.0
    favoured: float = 0.9

    def __call__(self, plan: TrajectoryPlan, seed: Seed, rng: np.random.Generator) -> TrajectoryPlan:
        turns = list(plan.turns)
        if turns and rng.random() < self.misplaced:
            if seed.video is None:
                target = {"bbox_2d": list(CELL_BOXES[rng.integers(len(CELL_BOXES))])}
            else:
                target = {"target_frames": [int(rng.integers(FRAMES)) + 1]}
            turns[-1] = dataclasses.replace(turns[-1], arguments={**turns[-1].arguments, **target})
        if not turns:
            answer = _answer(self._guess(seed, rng))
        elif self._shows_cue(turns[-1].arguments, seed):
            answer = plan.answer
        else:
            answer = _answer(str(rng.integers(DIGITS)))
        return dataclasses.replace(plan, turns=tuple(turns), answer=answer)

    def _shows_cue(self, arguments: Mapping[str, Any], seed: Seed) -> bool:
        if seed.video is None:
            return tuple(arguments["bbox_2d"]) == seed.cue
        return not set(seed.cue).isdisjoint(arguments["target_frames"])

    def _guess(self, seed: Seed, rng: np.random.Generator) -> str:
        prior = seed.attributes["prior_answer"]
        if rng.random() < self.favoured:
            return prior
        return str(rng.choice([digit for digit in map(str, range(DIGITS)) if digit != prior]))


def warm_start(
    registry: Registry,
    processor: Processor,
    *,
    seed: int = 0,
    world: str = "images",
    corrections: bool = True,
    **teacher: float,
) -> Synthesizer:
    """The synthesizer of the quickstart's warm start.

    Args:
      registry: the operations.
      processor: of the model.
      seed: of all random choices.
      world: of `WORLDS`.
      corrections: False: the trajectories that look elsewhere first look once, like the others.
      **teacher: the arguments of `PoorTeacher`.
    """
    mix = WORLDS[world].mix if corrections else UNCORRECTED_MIX
    return Synthesizer(
        registry,
        processor,
        captioner(),
        padding=PADDING,
        image_mix=mix,
        video_mix=mix,
        revise=PoorTeacher(**teacher),
        seed=seed,
    )


def save_world_processor(
    directory: str | Path, registry: Registry, vocabulary: int = 1536, world: str = "images"
) -> None:
    """Trains a tokenizer on the world's own text and writes the files of a processor, all but the model's config.json.

    Args:
      directory: a checkpoint directory, created if missing.
      registry: its tool descriptions, observations and errors are part of the text.
      vocabulary: the most tokens of the tokenizer.
      world: of `WORLDS`.
    """
    texts = [text for messages in _world_text(registry, WORLDS[world]) for text in conversation_texts(messages)]
    save_processor(train_tokenizer(texts, vocabulary), directory, WORLDS[world].budgets)


def _world_text(registry: Registry, world: World) -> Iterator[list[dict[str, Any]]]:
    """Conversations that together contain all text that is usual in this world."""

    def resized(size: tuple[int, int], kind: str) -> tuple[int, int]:
        return smart_resize(size, world.budgets.of(kind))

    for seed in world.source(count=8 * len(CELL_BOXES), split="pretrain", favoured=None):
        yield place_lesson(seed, registry)
        yield reading_lesson(seed, registry)
        yield color_lesson(seed, registry)
        yield query_messages(seed.query(), None)
        context = _context(seed)
        for kind in world.mix:
            yield run_plan(TEMPLATES[kind](context), seed, _state(seed), registry, resized).messages
    yield from ([{"role": "user", "content": error_text(str(error))}] for error in _errors(registry, world))


def _errors(registry: Registry, world: World) -> Iterator[OperationError]:
    """The errors of the invalid calls that a small model typically makes."""
    seed = world.source(count=1)[0]
    right = {"bbox_2d": list(CELL_BOXES[0]), "target_image": 1}
    wrong = (
        {"bbox_2d": [0.49, 0.01, 0.24, 0.24]},
        {"bbox_2d": [0.01, 0.01, 0.24]},
        {"bbox_2d": [0.24, 0.24, 0.25, 0.25]},
        {"bbox_2d": "0.01"},
        {"target_image": 2},
        {"target_image": 0.5},
        {"target": 1},
    )
    calls = [Call("crop_image_normalized", right | change) for change in wrong] + [Call("crop", right)]
    if seed.video is not None:
        calls = [Call("select_frames", {"target_frames": frames}) for frames in ([0], [FRAMES + 1], [], 1, [0.5])]
    for call in calls:
        try:
            registry.execute(call, _state(seed))
        except OperationError as error:
            yield error
    for text in ("<tool_call>\n", "<tool_call>\n1\n</tool_call>", "<tool_call></tool_call><tool_call></tool_call>"):
        if isinstance(error := registry.parse(text), OperationError):
            yield error


def _answer(digit: str) -> str:
    return f"The answer is \\boxed{{{digit}}}."


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture(image: Any, kind: str = "image") -> dict[str, Any]:
    return {"type": "image", "image": image, "kind": kind}


def _context(seed: Seed) -> TemplateContext:
    frames = len(seed.video or ())
    return TemplateContext(seed, captioner(), np.random.default_rng(0), padding=PADDING, frames=frames)


def _state(seed: Seed) -> MediaState:
    frames = None if seed.video is None else [frame.convert("RGB") for frame in seed.video]
    return MediaState.from_query(images=[image.convert("RGB") for image in seed.images], video_frames=frames)


def _lesson(registry: Registry, seed: Seed, question: str, answer: str) -> list[dict[str, Any]]:
    """A question with the instructions of a real query.

    A model of this size finds positions by the number of tokens between them, so lessons carry over only to prompts of
    the same form.
    """
    tools = registry.tools_section(_state(seed))
    messages = query_messages({**seed.query(), "question": question}, tools, default_guidelines(registry))
    return [*messages, {"role": "assistant", "content": [_text(answer)]}]
