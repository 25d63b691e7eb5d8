"""A trajectory as pages show it, in plain JSON: a row of a list, and the details of it.

Every page that shows trajectories draws this one description: the viewer in the browser (viewer/page/detail.js), all
others as HTML (`trajectory_html`). Texts are those of models and data still, to be escaped where they are drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pixel_reasoner_jax.processing import Media
from pixel_reasoner_jax.query import FractionBox
from pixel_reasoner_jax.report.images import pixels_seen
from pixel_reasoner_jax.report.lineage import crop_boxes, video_frames
from pixel_reasoner_jax.report.text import arguments_text, printable
from pixel_reasoner_jax.report.trajectory_json import finite, to_json_types
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Source, Trajectory

MAX_TEXT = 20_000  # characters of one text that are shown
MAX_TOKENS = 8_000  # sampled tokens of a response that are shaded
MAX_ITEMS = 400  # messages, items of a message, operations, boxes
ROW_TEXT = 200  # characters of the texts of a row
REDUCED = 1.5  # times that an image is wider than the model saw it, for both to be shown
STOPPED = {
    Ended.OPERATIONS: "limit on operations",
    Ended.TOKENS: "limit on tokens",
    Ended.IMAGES: "limit on images",
    Ended.LENGTH: "cache full",
    Ended.WITHHELD: "refused to answer",
    Ended.NOT_ASKED: "not asked",
}
_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|$)", re.DOTALL)

Shown = dict[str, Any]
"""A picture: what a page finds it by, its `width` and `height`; `box` (left, top, right, bottom), if it is a part of
that; `reduced`, if it has not its own pixels but those that the model saw."""


class Shelf(Protocol):
    """Takes the pictures of a page."""

    def add(self, source: Any) -> Shown | None:
        """Takes a picture, which may be a file, encoded, or pixels; None for what cannot be read."""


@dataclasses.dataclass
class Facts:
    """What is known of a response beyond its trajectory.

    Attributes:
      group: what it belongs to: a benchmark, an episode, a template of synthesis.
      score: in [0, 1]; None where it was not scored.
      answer: that was taken from it; None: the usual rule takes it.
      categories: of its item.
      operations, failed: counts, where there is no trajectory that has them.
      reward, advantage, terms: of a training run.
      object_box: where what the question asks about is in the query's first image.
      trainer: float32 [tokens], log-probabilities by the trainer.
      sizes: of the query's images as the model saw them, "WIDTHxHEIGHT".
      problem: what went wrong with it.
    """

    group: str = ""
    score: float | None = None
    answer: str | None = None
    categories: Sequence[str] = ()
    operations: int | None = None
    failed: int | None = None
    reward: float | None = None
    advantage: float | None = None
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    object_box: FractionBox | None = None
    trainer: np.ndarray | None = None
    sizes: Sequence[str] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """`row` and `detail` are plain JSON, whose texts and sizes are bounded."""

    row: dict[str, Any]
    detail: dict[str, Any]


class TokenTexts:
    """The text of every token, by the tokenizer of a model directory.

    Args:
      directory: with a `tokenizer.json`; None, or one without it: tokens have no texts.
    """

    def __init__(self, directory: str | os.PathLike | None):
        path = None if directory is None else pathlib.Path(directory) / "tokenizer.json"
        self._tokenizer = None
        if path is not None and path.is_file():
            from tokenizers import Tokenizer

            try:
                self._tokenizer = Tokenizer.from_file(str(path))
            except Exception:  # the library raises a bare Exception for a damaged file
                pass
        self._text = functools.lru_cache(2**18)(self._decode)

    @property
    def known(self) -> bool:
        return self._tokenizer is not None

    def __call__(self, token: int) -> str | None:
        return self._text(token) if self.known else None

    def _decode(self, token: int) -> str:
        try:
            return self._tokenizer.decode([token], skip_special_tokens=False)
        except (OverflowError, TypeError, ValueError):
            return ""


def entry(trajectory: Trajectory, facts: Facts, pictures: Shelf | None, texts: TokenTexts) -> Entry:
    """The entry of a trajectory, whose images `pictures` takes; without it, their places are named."""
    messages = _messages(trajectory, pictures)
    query = _query_pictures(messages)
    answer = facts.answer if facts.answer is not None else extract_answer(trajectory.response)
    made = len(trajectory.operations) if facts.operations is None else facts.operations
    failed = sum(not one.succeeded for one in trajectory.operations) if facts.failed is None else facts.failed
    pixels, part = _resolution(query, facts)
    row = {
        "id": _cut(trajectory.query_id, ROW_TEXT),
        "sample": trajectory.sample,
        "group": _cut(facts.group, 80),
        "question": _cut(trajectory.question, ROW_TEXT),
        "reference": _cut(_reference(trajectory.reference), 80),
        "answer": None if answer is None else _cut(answer, 80),
        "score": facts.score,
        "operations": made,
        "failed": failed,
        "tokens": trajectory.sampled,
        "categories": [_cut(name, 80) for name in facts.categories[:16]],
        "reward": facts.reward,
        "advantage": facts.advantage,
        "pixels": pixels,
        "object": part,
        "text": _cut(_written(trajectory), 2 * ROW_TEXT),
    }
    reduced = {index for index, shown in enumerate(query) if shown and shown.get("reduced")}
    boxes = [box for box in crop_boxes(trajectory)[:MAX_ITEMS] if all(map(math.isfinite, box.box))]
    detail = {
        "question": _cut(trajectory.question),
        "reference": _cut(_reference(trajectory.reference)),
        "answer": None if answer is None else _cut(answer),
        "messages": messages,
        "operations": _operations(trajectory),
        "boxes": [
            {"number": b.number, "picture": b.picture, "box": list(b.box)} for b in boxes if b.picture not in reduced
        ],
        "object": _object(query, facts),
        "version": trajectory.policy_version,
        "stopped": STOPPED.get(trajectory.ended, ""),
        "says_loss": any("train" in item for content in _turns(trajectory).values() for item in content),
        "terms": dict(facts.terms),
        "turns": _token_turns(trajectory, facts.trainer, texts),
        "problem": _cut(facts.problem),
        "recovered": trajectory.recovered,
    }
    return Entry(row, to_json_types(detail))


def text_entry(
    fields: Mapping[str, Any],
    facts: Facts,
    messages: Sequence[dict[str, Any]] = (),
    operations: Sequence[OperationRecord] = (),
) -> Entry:
    """The entry of a response of which texts alone were kept.

    Args:
      fields: `id`, `sample`, `question`, `reference`, `response`, `tokens` and `ended`, none of which must be there.
      facts: what is known beyond.
      messages, operations: of the trajectory, if more is known than the response.
    """
    ended = fields.get("ended")
    response = {"type": "text", "text": str(fields.get("response") or "")[:MAX_TEXT]}
    trajectory = Trajectory(
        query_id=str(fields.get("id") or "")[:MAX_TEXT],
        sample=_count(fields.get("sample")),
        question=str(fields.get("question") or "")[:MAX_TEXT],
        reference=fields.get("reference") or "",
        messages=[*messages] or [{"role": "assistant", "content": [response]}],
        tokens=np.zeros(0, np.int32),
        source=np.zeros(0, np.int8),
        train=np.zeros(0, bool),
        media=[],
        operations=[*operations],
        ended=Ended(ended) if ended in list(Ended) else None,
        counted=fields.get("tokens") if isinstance(fields.get("tokens"), int) else None,
    )
    facts = dataclasses.replace(facts, operations=_count(facts.operations), failed=_count(facts.failed))
    return entry(trajectory, facts, None, TokenTexts(None))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def _turns(trajectory: Trajectory) -> dict[int, list[dict[str, Any]]]:
    """The items of the assistant's messages, by the index of their turn."""
    return dict(enumerate(one["content"] for one in trajectory.messages if one["role"] == "assistant"))


def _messages(trajectory: Trajectory, pictures: Shelf | None) -> list[dict[str, Any]]:
    """Role and items of each message; a call that was executed is left out, for `_operations` to have it."""
    items = (item for message in trajectory.messages for item in message["content"])
    ids = (id(item) for item in items if item.get("type") in ("image", "video"))
    media = dict(zip(ids, trajectory.media, strict=False))
    executed = {record.turn for record in trajectory.operations}
    messages, turn = [], -1
    for message in trajectory.messages[:MAX_ITEMS]:
        is_turn = message["role"] == "assistant"
        turn += is_turn
        items = [_item(item, pictures, media.get(id(item))) for item in message["content"][:MAX_ITEMS]]
        if is_turn and turn in executed:
            items = [{**item, "text": _CALL.sub("", item["text"])} if "text" in item else item for item in items]
        messages.append({"role": _cut(message["role"], 40), "items": items})
    return messages


def _item(item: Mapping[str, Any], pictures: Shelf | None, media: Media | None) -> dict[str, Any]:
    """A text; or pictures, with the first of a larger one as the model saw it."""
    kind = item.get("type")
    if kind not in ("image", "video") or pictures is None:
        shown: dict[str, Any] = {"text": _cut(item.get("text", "") if kind in ("text", None) else f"[{kind}]")}
        return {**shown, "train": item["train"]} if isinstance(item.get("train"), bool) else shown
    sources = [item.get("image")] if kind == "image" else video_frames(item.get("video"))[:MAX_ITEMS]
    found = [pictures.add(source) for source in sources]
    if media is not None and not any(found):
        found = [one and {**one, "reduced": True} for one in map(pictures.add, pixels_seen(media))] or found
    elif media is not None and kind == "image" and media.size[0] * REDUCED < found[0]["width"]:
        seen = [pictures.add(image) for image in pixels_seen(media)]
        return {"images": found, "seen": seen[0]} if seen else {"images": found}
    if kind == "image":
        return {"images": found}
    return {"frames": found} if found else {"text": "[a video, which is not shown]"}


def _query_pictures(messages: Sequence[Mapping[str, Any]]) -> list[Shown | None]:
    """The pictures before the first turn of the assistant."""
    found: list[Shown | None] = []
    for message in itertools.takewhile(lambda one: one["role"] != "assistant", messages):
        for item in message["items"]:
            found += item.get("images", []) + item.get("frames", [])
    return found


def _resolution(query: Sequence[Shown | None], facts: Facts) -> tuple[int | None, float | None]:
    """Pixels of the largest of the query's pictures, and the share of the first one that the object takes."""
    sizes = [(shown["width"], shown["height"]) for shown in query if shown and "box" not in shown]
    for text in () if sizes else facts.sizes[:64]:
        numbers = text.split("x")[:2]
        if len(numbers) == 2 and all(part.isdecimal() and len(part) < 7 for part in numbers):
            sizes.append((int(numbers[0]), int(numbers[1])))
    pixels = max((width * height for width, height in sizes), default=None)
    if facts.object_box is None:
        return pixels, None
    left, top, right, bottom = facts.object_box
    return pixels, float(f"{(right - left) * (bottom - top):.6g}")  # alike for objects of one size


def _object(query: Sequence[Shown | None], facts: Facts) -> list[float] | None:
    """Where what the question asks about is, in pixels of the query's first picture as it is shown."""
    if facts.object_box is None or not query or query[0] is None:
        return None
    left, top, right, bottom = query[0].get("box", (0, 0, query[0]["width"], query[0]["height"]))
    sides = (right - left, bottom - top) * 2
    return [round(fraction * side, 2) for fraction, side in zip(facts.object_box, sides, strict=True)]


def _operations(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The calls, with the text that asked for each, and whether that carries no loss."""
    turns = _turns(trajectory)
    return [_operation(record, turns.get(record.turn, [])) for record in trajectory.operations[:MAX_ITEMS]]


def _operation(record: OperationRecord, content: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    asked = _CALL.search("".join(str(item.get("text", "")) for item in content))
    arguments = arguments_text(dataclasses.replace(record, arguments=to_json_types(record.arguments)))
    return {
        "turn": record.turn,
        "name": None if record.name is None else _cut(record.name, 100),
        "arguments": _cut(arguments),
        "error": None if record.error is None else _cut(record.error),
        "sizes": [list(size) for size in record.sizes[:MAX_ITEMS]],
        "call": _cut(asked[0]) if asked else "",
        "train": not any("<tool_call>" in str(item.get("text", "")) and item.get("train") is False for item in content),
    }


def _token_turns(trajectory: Trajectory, trainer: np.ndarray | None, texts: TokenTexts) -> list[dict[str, Any]]:
    """For every run of tokens of the response, which is a turn: texts (or ids), and log-probabilities if sampled."""
    own = trajectory.policy_logprobs if trajectory.policy_logprobs is not None else trajectory.logprobs
    if own is None:
        return []
    own, trainer = (
        None if values is None else np.where(trajectory.source == Source.SAMPLED, values, np.nan)
        for values in (own, trainer)
    )
    turns, left, start = [], MAX_TOKENS, 0
    for is_turn, run in itertools.groupby(np.isin(trajectory.source, (Source.SAMPLED, Source.GIVEN)).tolist()):
        end = start + len([*run])
        if is_turn and left > 0:
            stop = min(end, start + left)
            ids = trajectory.tokens[start:stop].tolist()
            turn = {"logprobs": _rounded(own[start:stop])}
            turn["texts" if texts.known else "ids"] = [texts(token) for token in ids] if texts.known else ids
            if trainer is not None:
                turn["trainer"] = _rounded(trainer[start:stop])
            if stop < end:
                turn["more"] = end - stop
            turns.append(turn)
            left -= stop - start
        start = end
    return turns


def _rounded(values: np.ndarray) -> list[float | None]:
    return [round(value, 5) if math.isfinite(value) else None for value in values.astype(np.float64).tolist()]


def _written(trajectory: Trajectory) -> str:
    """The beginning of what the assistant wrote."""
    texts = (
        str(item.get("text", ""))
        for message in trajectory.messages
        if message["role"] == "assistant"
        for item in message["content"]
    )
    return " ".join(itertools.islice(texts, 8))


def _reference(reference: Any) -> str:
    if isinstance(reference, list | tuple):
        return " or ".join(str(one)[:MAX_TEXT] for one in reference[:20])
    return str(reference)


def _cut(text: Any, length: int = MAX_TEXT) -> str:
    text = str(text)
    more = len(text) - length
    text = printable(text[:length])
    return text if more <= 0 else f"{text}…" if length < MAX_TEXT else f"{text} … ({more:,} characters more)"


def numbers_of(value: Any, most: int = 40) -> dict[str, float]:
    """The finite numbers of a mapping that others wrote."""
    if not isinstance(value, Mapping):
        return {}
    pairs = ((_cut(name, 60), finite(number)) for name, number in itertools.islice(value.items(), most))
    return {name: number for name, number in pairs if number is not None}
