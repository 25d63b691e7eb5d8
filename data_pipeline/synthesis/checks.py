"""Checks that every synthesized trajectory must pass before it is stored.

They trust nothing that made the trajectory: calls are parsed again from the assistant's text, and the images that
operations returned are compared with crops of the raw image, computed here independently.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.draft import Draft
from data_pipeline.seed import Seed
from data_pipeline.synthesis.legibility import is_legible
from data_pipeline.synthesis.prose import find_flaw
from data_pipeline.synthesis.synthesizer import MediaLoader
from data_pipeline.synthesis.templates import FURTHER
from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.operations import Call, MediaState, OperationError, Registry, parse_call
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.rewards.answers import accepted, clean
from pixel_reasoner_jax.trajectory import OperationRecord

OPERATION_COUNTS = {
    "text_only": 0,
    "single_pass": 1,
    "recrop_once": 2,
    "recrop_twice": 3,
    "further_zoom": 2,
    "reselect": 2,
}
"""Operations in every kind of trajectory; all but the last are mistaken."""

_CALL = re.compile(r"<tool_call>.*?</tool_call>", re.DOTALL)
_TOO_COMMON = re.compile(r"(?:yes|no|true|false|[a-z])", re.IGNORECASE)


class CheckError(ValueError):
    """A trajectory must not be stored.

    Attributes:
      reason: the kind of fault in a word, by which rejections are counted.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def check_trajectory(draft: Draft, seed: Seed, media: MediaLoader) -> None:
    """Checks a trajectory.

    Args:
      draft: the trajectory.
      seed: the seed that it was made from; a question that the captioner added is taken from the draft.
      media: loads the raw images and videos.

    Raises:
      CheckError: for the first fault that is found.
    """
    turns = _turns(draft)
    _check_text(draft, turns)
    _check_answer(draft, turns)
    _check_no_leak(draft, turns)
    calls = _check_calls(draft, turns)
    _check_loss(draft, turns)
    _check_observations(draft, seed, calls, media)


def check_sampled(draft: Draft, seed: Seed, media: MediaLoader, registry: Registry) -> None:
    """Checks a trajectory that a model sampled, whose answer is known to be right.

    Args:
      draft: the trajectory.
      seed: the seed that it answers.
      media: loads the raw images and videos.
      registry: the operations that the model could call: they are executed again.

    Raises:
      CheckError: for the first fault that is found.
    """
    turns = _turns(draft)
    _check_text(draft, turns)
    _check_no_leak(draft, turns)
    if len(turns) != len(draft.operations) + 1 or registry.parse(turns[-1]) is not None:
        raise CheckError("operation", f"{len(draft.operations)} operations in {len(turns)} turns")
    images = [media.load_image(image) for image in seed.images]
    video = None if seed.video is None else media.load_video(seed.video, seed.fps)
    frames, clip = (video.frames, video.clip) if video else (None, None)
    state = MediaState.from_query(images, frames, media.resized, clip)
    for number, record in enumerate(draft.operations):
        if not record.succeeded:
            raise CheckError("operation", f"operation {number + 1} failed: {record.error}")
        call = registry.parse(turns[number])
        if not isinstance(call, Call) or (call.name, call.arguments, number) != (
            record.name,
            record.arguments,
            record.turn,
        ):
            raise CheckError("operation", f"operation {number + 1} is not the one that was asked for")
        try:
            expected = registry.execute(call, state).images
        except OperationError as error:
            raise CheckError("operation", f"operation {number + 1} fails when it is repeated: {error}") from None
        items = draft.messages[2 * number + 3]["content"]
        shown = [media.load_image(item["image"]) for item in items if item["type"] == "image"]
        if len(shown) != len(expected) or not all(map(_same, shown, expected)):
            raise CheckError("observation", f"operation {number + 1} does not show what it returns when it is repeated")


def _turns(draft: Draft) -> list[str]:
    """The text of every turn of the assistant; roles must be system, then user and assistant alternately."""
    roles = [message["role"] for message in draft.messages]
    if len(roles) < 3 or roles != ["system", *["user", "assistant"] * ((len(roles) - 1) // 2)]:
        raise CheckError("form", f"the roles are {', '.join(roles)}")
    return [_text(message) for message in draft.messages[2::2]]


def _check_text(draft: Draft, turns: Sequence[str]) -> None:
    if not draft.question.strip():
        raise CheckError("text", "the question is empty")
    references = [draft.reference] if isinstance(draft.reference, str) else draft.reference
    texts = {"the id": draft.query_id, "the question": draft.question}
    texts |= {f"the answer {number}": answer for number, answer in enumerate(references, 1)}
    texts |= {f"turn {number}": _without_call(turn) for number, turn in enumerate(turns, 1)}
    last = f"turn {len(turns)}"
    texts[last] = texts[last].replace("\\boxed", "", 1)
    for name, text in texts.items():
        if problem := find_flaw(text):
            raise CheckError("text", f"{name}: {problem}")
    try:
        json.dumps(draft.attributes, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckError("text", f"the attributes cannot be stored as JSON: {error}") from None


def _check_answer(draft: Draft, turns: Sequence[str]) -> None:
    """The last turn states the answer as `extract_answer` will read it from a response."""
    wanted = draft.reference if isinstance(draft.reference, str) else draft.reference[0]
    found = extract_answer(turns[-1])
    if not wanted.strip() or found != wanted.strip():
        raise CheckError("answer", f"the last turn answers {shown(found)}, the reference is {shown(wanted)}")


def _check_no_leak(draft: Draft, turns: Sequence[str]) -> None:
    """No turn before the last may name the answer, unless the question does.

    Letters of choices, yes and no are not searched for, since any text may contain them.
    """
    references = [draft.reference] if isinstance(draft.reference, str) else draft.reference
    names = {clean(name) for reference in references for name in accepted(reference)}
    for name in names:
        if not name or _TOO_COMMON.fullmatch(name) or _mentions(draft.question, name):
            continue
        for number, turn in enumerate(turns[:-1], 1):
            if _mentions(_without_call(turn), name):
                raise CheckError("leak", f"turn {number} names the answer {name!r} before the evidence is seen")


def _check_calls(draft: Draft, turns: Sequence[str]) -> list[Call]:
    """Every turn but the last must make the call that was executed, and the last none; returns the calls."""
    calls = [parse_call(turn) for turn in turns]
    wanted = OPERATION_COUNTS.get(draft.kind)
    if wanted is None or len(turns) != wanted + 1 or len(draft.operations) != wanted:
        raise CheckError("operation", f"{len(draft.operations)} operations in {len(turns)} turns are no {draft.kind}")
    if calls[-1] is not None:
        raise CheckError("operation", "the last turn asks for an operation")
    for number, (call, record) in enumerate(zip(calls[:-1], draft.operations, strict=True)):
        location = f"operation {number + 1}"
        if not isinstance(call, Call):
            raise CheckError("operation", f"{location} is not asked for: {call}")
        if (call.name, call.arguments, number) != (record.name, record.arguments, record.turn):
            raise CheckError("operation", f"{location} is not the one that was asked for")
        if not record.succeeded:
            raise CheckError("operation", f"{location} failed: {record.error}")
        if "bbox_2d" in call.arguments and not _well_formed(call.arguments["bbox_2d"]):
            raise CheckError("box", f"{location}: {call.arguments['bbox_2d']} is not a box in shares of the image")
    return calls[:-1]


def _check_loss(draft: Draft, turns: Sequence[str]) -> None:
    """The loss must leave out every mistaken call as a whole, and no other text of the assistant."""
    for number, message in enumerate(draft.messages[2::2], 1):
        mistaken = number < len(turns) - 1
        for item in message["content"]:
            masked = mistaken and "<tool_call>" in item["text"]
            if item.get("train", True) == masked:
                raise CheckError(
                    "loss", f"turn {number}: the loss {'covers' if masked else 'leaves out'} a part wrongly"
                )


def _check_observations(draft: Draft, seed: Seed, calls: Sequence[Call], media: MediaLoader) -> None:
    """Every observation must show the pixels that were asked for, and only the right ones the evidence.

    The evidence must be visible without any where there are none, and far smaller in the first crop of a further zoom.
    """
    pictures = [media.load_image(image) for image in seed.images]
    if not calls:
        if pictures and not is_legible(seed, media.resized(pictures[0].size)):
            raise CheckError("legibility", "it answers from the whole view, where the evidence is too small to be seen")
        return
    areas = []
    if seed.video is not None:
        video = media.load_video(seed.video, seed.fps)
        pictures, seed = list(video.frames), seed.with_frames(video.times)
    for number, (call, record) in enumerate(zip(calls, draft.operations, strict=True)):
        items = draft.messages[2 * number + 3]["content"]
        shown = [media.load_image(item["image"]) for item in items if item["type"] == "image"]
        frames = call.arguments.get("target_frames")
        expected = [pictures[frame - 1] for frame in frames] if frames else [_recorded_crop(pictures[0], call, record)]
        if len(shown) != len(expected) or not all(map(_same, shown, expected)):
            raise CheckError("observation", f"operation {number + 1} does not show what it was asked for")
        areas.append(sum(image.width * image.height for image in shown))
        last = number + 1 == len(calls)
        shows = _shows(seed, call, record, pictures, all_of_cue=last or draft.kind == "further_zoom")
        if shows != (last or draft.kind == "further_zoom"):
            raise CheckError("evidence", f"operation {number + 1} {'shows' if shows else 'misses'} the evidence")
    if draft.kind == "further_zoom" and areas[0] < FURTHER * areas[-1]:
        raise CheckError("zoom", f"the first crop has {areas[0] / areas[-1]:.1f} times the area of the second one")


def _recorded_crop(image: Image.Image, call: Call, record: OperationRecord) -> Image.Image:
    """The crop of the recorded box, which must contain the box of the call."""
    left, top, right, bottom = (
        share * side for share, side in zip(call.arguments["bbox_2d"], image.size * 2, strict=True)
    )
    (box,) = record.boxes
    if not (box[0] <= left + 1 and box[1] <= top + 1 and box[2] >= right - 1 and box[3] >= bottom - 1):
        raise CheckError("observation", f"the crop {box} does not hold the box that was asked for")
    return image.crop(box)


def _shows(seed: Seed, call: Call, record: OperationRecord, pictures: Sequence[Image.Image], all_of_cue: bool) -> bool:
    """Whether an operation shows all of the evidence (`all_of_cue`), or any of it."""
    if "target_frames" in call.arguments:
        frames, cue = set(call.arguments["target_frames"]), set(seed.cue)
        return cue <= frames if all_of_cue else bool(cue & frames)
    left, top, right, bottom = (share * side for share, side in zip(seed.cue, pictures[0].size * 2, strict=True))
    across = min(record.boxes[0][2], right) - max(record.boxes[0][0], left)
    down = min(record.boxes[0][3], bottom) - max(record.boxes[0][1], top)
    # Rounding, and the limit of coordinates below 1, may move an edge by a pixel, or by a thousandth of a long side.
    slack = [max(1.0, side / 1000) for side in pictures[0].size]
    if all_of_cue:
        return across >= right - left - slack[0] and down >= bottom - top - slack[1]
    return across > slack[0] and down > slack[1]


def _same(shown: Image.Image, expected: Image.Image) -> bool:
    return shown.size == expected.size and np.array_equal(np.asarray(shown), np.asarray(expected))


def _well_formed(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(math.isfinite(value) for value in box):
        return False
    left, top, right, bottom = box
    return 0 <= left < right < 1 and 0 <= top < bottom < 1


def _mentions(text: str, name: str) -> bool:
    """Whether a text contains a name as words of its own, not inside a longer word or number."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w|\.\d)", clean(text), re.IGNORECASE) is not None


def _without_call(turn: str) -> str:
    """The text of a turn without its call."""
    return _CALL.sub("", turn)


def _text(message: dict[str, Any]) -> str:
    return "".join(item.get("text", "") for item in message["content"])
