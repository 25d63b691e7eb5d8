"""What every synthesized trajectory is held against before it is stored.

The checks trust nothing that made the trajectory: calls are parsed anew from what the assistant writes, and what the
operations returned is cut out of the raw image once more, by its own arithmetic.
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
from data_pipeline.synthesis.prose import find_flaw
from data_pipeline.synthesis.synthesizer import MediaLoader
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call, parse_call
from pixel_reasoner_jax.rewards.answers import accepted, extract_answer, normalize
from pixel_reasoner_jax.trajectory import OperationRecord

OPERATION_COUNTS = {
    "text_only": 0,
    "single_pass": 1,
    "recrop_once": 2,
    "recrop_twice": 3,
    "further_zoom": 2,
    "reselect": 2,
}
"""Of every kind of trajectory; all but the last are mistaken."""

_CALL = re.compile(r"<tool_call>.*?</tool_call>", re.DOTALL)
_UNTELLING = re.compile(r"(?:yes|no|true|false|[a-z])", re.IGNORECASE)


class CheckError(UserError):
    """A trajectory that must not be stored.

    Attributes:
      reason: a word for the kind of fault, to count by.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def check(draft: Draft, seed: Seed, media: MediaLoader) -> None:
    """Checks a trajectory.

    Args:
      draft: the trajectory.
      seed: what it was made of; its question and answer may be the captioner's.
      media: loads the raw images and videos.

    Raises:
      CheckError: the first fault that was found.
    """
    turns = _turns(draft)
    _check_text(draft, turns)
    _check_answer(draft, turns)
    _check_no_leak(draft, turns)
    calls = _check_calls(draft, turns)
    _check_loss(draft, turns)
    _check_observations(draft, seed, calls, media)


def _turns(draft: Draft) -> list[str]:
    """What the assistant writes, turn by turn; roles must alternate, from the system's to the assistant's last."""
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
    texts |= {f"turn {number}": _said(turn) for number, turn in enumerate(turns, 1)}
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
        raise CheckError("answer", f"the last turn answers {found!r}, the reference is {wanted!r}")


def _check_no_leak(draft: Draft, turns: Sequence[str]) -> None:
    """Nothing said before the evidence is seen names the answer, unless the question does.

    Letters of choices and yes and no are not looked for: they are in any text.
    """
    references = [draft.reference] if isinstance(draft.reference, str) else draft.reference
    names = {normalize(name) for reference in references for name in accepted(reference)}
    for name in names:
        if not name or _UNTELLING.fullmatch(name) or _mentions(draft.question, name):
            continue
        for number, turn in enumerate(turns[:-1], 1):
            if _mentions(_said(turn), name):
                raise CheckError("leak", f"turn {number} names the answer {name!r} before the evidence is seen")


def _check_calls(draft: Draft, turns: Sequence[str]) -> list[Call]:
    """Every turn but the last makes the call that was executed, and no other."""
    calls = [parse_call(turn) for turn in turns]
    wanted = OPERATION_COUNTS.get(draft.kind)
    if wanted is None or len(turns) != wanted + 1 or len(draft.operations) != wanted:
        raise CheckError("operation", f"{len(draft.operations)} operations in {len(turns)} turns are no {draft.kind}")
    if calls[-1] is not None:
        raise CheckError("operation", "the last turn asks for an operation")
    for number, (call, record) in enumerate(zip(calls[:-1], draft.operations, strict=True)):
        place = f"operation {number + 1}"
        if not isinstance(call, Call):
            raise CheckError("operation", f"{place} is not asked for: {call}")
        if (call.name, call.arguments, number) != (record.name, record.arguments, record.turn):
            raise CheckError("operation", f"{place} is not the one that was asked for")
        if not record.succeeded:
            raise CheckError("operation", f"{place} failed: {record.error}")
        if "bbox_2d" in call.arguments and not _well_formed(call.arguments["bbox_2d"]):
            raise CheckError("box", f"{place}: {call.arguments['bbox_2d']} is not a box in shares of the image")
    return calls[:-1]


def _check_loss(draft: Draft, turns: Sequence[str]) -> None:
    """The loss leaves out mistaken calls, all of each, and nothing else that the assistant writes."""
    for number, message in enumerate(draft.messages[2::2], 1):
        mistaken = number < len(turns) - 1
        for item in message["content"]:
            masked = mistaken and "<tool_call>" in item["text"]
            if item.get("train", True) == masked:
                raise CheckError(
                    "loss", f"turn {number}: the loss {'covers' if masked else 'leaves out'} a part wrongly"
                )


def _check_observations(draft: Draft, seed: Seed, calls: Sequence[Call], media: MediaLoader) -> None:
    """Every operation's user turn shows the pixels that were asked for; the last ones are the evidence."""
    if not calls:
        return
    whole = [media.load_image(image) for image in seed.images]
    if seed.video is not None:
        video = media.load_video(seed.video, seed.fps)
        whole, seed = list(video.frames), seed.with_frames(video.times)
    for number, (call, record) in enumerate(zip(calls, draft.operations, strict=True)):
        items = draft.messages[2 * number + 3]["content"]
        shown = [media.load_image(item["image"]) for item in items if item["type"] == "image"]
        frames = call.arguments.get("target_frames")
        expected = [whole[frame - 1] for frame in frames] if frames else [_cut(whole[0], call, record)]
        if len(shown) != len(expected) or not all(map(_same, shown, expected)):
            raise CheckError("observation", f"operation {number + 1} does not show what it was asked for")
        last = number + 1 == len(calls)
        shows = _shows(seed, call, record, whole, all_of_it=last or draft.kind == "further_zoom")
        if shows != (last or draft.kind == "further_zoom"):
            raise CheckError("evidence", f"operation {number + 1} {'shows' if shows else 'misses'} the evidence")


def _cut(image: Image.Image, call: Call, record: OperationRecord) -> Image.Image:
    """The recorded box, which must lie around the one asked for."""
    left, top, right, bottom = (
        share * side for share, side in zip(call.arguments["bbox_2d"], image.size * 2, strict=True)
    )
    (box,) = record.boxes
    if not (box[0] <= left + 1 and box[1] <= top + 1 and box[2] >= right - 1 and box[3] >= bottom - 1):
        raise CheckError("observation", f"the crop {box} does not hold the box that was asked for")
    return image.crop(box)


def _shows(seed: Seed, call: Call, record: OperationRecord, whole: Sequence[Image.Image], all_of_it: bool) -> bool:
    """Whether an operation shows all of the evidence, or any of it."""
    if "target_frames" in call.arguments:
        frames, cue = set(call.arguments["target_frames"]), set(seed.cue)
        return cue <= frames if all_of_it else bool(cue & frames)
    left, top, right, bottom = (share * side for share, side in zip(seed.cue, whole[0].size * 2, strict=True))
    across = min(record.boxes[0][2], right) - max(record.boxes[0][0], left)
    down = min(record.boxes[0][3], bottom) - max(record.boxes[0][1], top)
    # A pixel is what rounding, and the limit below 1, may take away or add; a thousandth of a long side is more.
    slack = [max(1.0, side / 1000) for side in whole[0].size]
    if all_of_it:
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
    """Whether a name stands in a text, not inside a longer word or number."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w|\.\d)", normalize(text), re.IGNORECASE) is not None


def _said(turn: str) -> str:
    """A turn without its call."""
    return _CALL.sub("", turn)


def _text(message: dict[str, Any]) -> str:
    return "".join(item.get("text", "") for item in message["content"])
