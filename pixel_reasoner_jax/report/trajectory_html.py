"""A trajectory as a piece of HTML: the conversation, its operations with their crops, boxes on the image.

Everything in a trajectory is untrusted (the model wrote it, or a data set did) and passes through `escape`. The
fragment needs the style sheet of `page` and nothing from the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from pixel_reasoner_jax.report.images import data_uri, image_size, open_image, pixels_seen, thumbnail
from pixel_reasoner_jax.report.lineage import CropBox, crop_boxes, video_frames
from pixel_reasoner_jax.report.text import arguments_text, escape, sizes_text
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory

SCENE_SIDE, CROP_SIDE, FRAME_SIDE = 640, 320, 200  # longest side of a thumbnail in pixels
COLOURS = 5  # the style sheet has --mark-1 to --mark-5
MAX_TEXT = 20_000  # characters of one text segment that are shown

ENDED = {
    Ended.ANSWER: "answered",
    Ended.OPERATIONS: "limit on operations",
    Ended.TOKENS: "limit on tokens",
    Ended.IMAGES: "limit on images",
    Ended.LENGTH: "cache full",
    Ended.WITHHELD: "refused to answer",
}

_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|$)", re.DOTALL)


def trajectory_html(
    trajectory: Trajectory, *, correct: float | None = None, label: str = "", max_bytes: int = 160_000
) -> str:
    """One trajectory as an `<article>`.

    Args:
      trajectory: its images are taken from the messages, or rebuilt from `media` if those hold no pixels.
      correct: the answer's score, 1 right and 0 wrong; None if it was not scored.
      label: text of the heading, for example the stage of training.
      max_bytes: the encoded pictures together take about so many bytes; each gets an equal share.
    """
    view = _View(trajectory, max_bytes)
    first = next((i for i, m in enumerate(trajectory.messages) if m["role"] == "assistant"), len(trajectory.messages))
    turns = "".join(view.messages(trajectory.messages[first:]))
    prompt = "".join(view.prompt(trajectory.messages[:first]))
    return (
        f'<article class="card trajectory">{_header(trajectory, correct, label)}'
        f'<div class="columns"><div class="scenes">{"".join(view.scenes())}</div>'
        f'<div class="talk">{turns}{_verdict(trajectory, correct)}{prompt}</div></div></article>'
    )


class _View:
    """The parts of one trajectory's HTML; pairs pictures with their processed media, and turns with their calls."""

    def __init__(self, trajectory: Trajectory, max_bytes: int):
        self.trajectory = trajectory
        items = [item for message in trajectory.messages for item in message["content"]]
        pictures = [item for item in items if item.get("type") in ("image", "video")]
        self._media = dict(zip(map(id, pictures), trajectory.media, strict=False))
        count = sum(len(video_frames(i["video"])) or 1 if i["type"] == "video" else 1 for i in pictures)
        # Trajectories for instruction tuning say what the loss covers; what operations return it never does.
        self._says_loss = any(
            "train" in item for m in trajectory.messages if m["role"] == "assistant" for item in m["content"]
        )
        # A query's image is the larger, and base64 adds a third.
        self._share = max(1500, int(max_bytes * 0.75 / (count + 2)))

    def scenes(self) -> Iterator[str]:
        """The query's images, or its video's frames, with the boxes of the crops on them."""
        boxes = crop_boxes(self.trajectory)
        index = 0
        for message in self.trajectory.messages:
            if message["role"] == "assistant":
                return
            for item in message["content"]:
                if item.get("type") == "image":
                    yield self._scene(item, [crop for crop in boxes if crop.picture == index])
                    index += 1
                elif item.get("type") == "video":
                    frames = self._frames(item)
                    yield '<div class="strip">'
                    for number, frame in enumerate(frames, 1):
                        here = [crop for crop in boxes if crop.picture == index]
                        yield _picture(frame, FRAME_SIDE, self._share, here, f"frame {number}")
                        index += 1
                    yield "</div>"

    def _scene(self, item: dict[str, Any], boxes: list[CropBox]) -> str:
        raw = open_image(item["image"])
        seen = next(iter(self._seen(item)), None)
        image = raw or seen
        if image is None:
            return '<p class="missing">The image is not available.</p>'
        # Boxes are in pixels of the raw image, which only it can carry.
        out = _picture(image, SCENE_SIDE, 3 * self._share, boxes if raw else [], f"{image.width} × {image.height} px")
        if raw and seen and seen.width * 1.5 < raw.width:
            caption = f"what the model saw at first: {seen.width} × {seen.height} px"
            out += _picture(seen, CROP_SIDE, self._share, caption=caption, kind="seen")
        return out

    def _frames(self, item: dict[str, Any]) -> list[Image.Image]:
        return [frame for frame in map(open_image, video_frames(item["video"])) if frame] or self._seen(item)

    def _seen(self, item: dict[str, Any]) -> list[Image.Image]:
        media = self._media.get(id(item))
        return [] if media is None else pixels_seen(media)

    def prompt(self, messages: list[dict[str, Any]]) -> Iterator[str]:
        if not messages:
            return
        yield '<details class="prompt"><summary>Prompt</summary>'
        for message in messages:
            yield f'<div class="turn"><span class="role">{escape(message["role"])}</span>'
            for item in message["content"]:
                if "text" in item:
                    yield _text(item["text"])
                else:
                    yield f'<p class="note">[{escape(item.get("type"))}{_size_note(item)}]</p>'
            yield "</div>"
        yield "</details>"

    def messages(self, messages: list[dict[str, Any]]) -> Iterator[str]:
        """Answers with their calls, and observations with their pictures."""
        turn = -1
        numbered = list(enumerate(self.trajectory.operations, 1))
        for message in messages:
            if message["role"] == "assistant":
                turn += 1
                calls = [(number, record) for number, record in numbered if record.turn == turn]
                yield f'<div class="turn assistant"><span class="role">Turn {turn + 1}</span>'
                for item in message["content"]:
                    yield from _answer_text(item)
                call = _CALL.search("".join(item.get("text", "") for item in message["content"]))
                masked = any("<tool_call>" in i.get("text", "") and i.get("train") is False for i in message["content"])
                yield from (_operation(number, record, call[0] if call else "", masked) for number, record in calls)
            else:
                calls = [(number, record) for number, record in numbered if record.turn == turn]
                title = _masked("Observation") if self._says_loss else "Observation"
                yield f'<div class="turn observation{_colour_class(calls)}"><span class="role">{title}</span>'
                yield from self._observation(message)
            yield "</div>"

    def _observation(self, message: dict[str, Any]) -> Iterator[str]:
        text = "".join(item.get("text", "") for item in message["content"])
        pictures = [item for item in message["content"] if item.get("type") == "image"]
        if pictures:
            yield '<div class="strip">'
            for item in pictures:
                image = open_image(item["image"]) or next(iter(self._seen(item)), None)
                if image is None:
                    yield '<p class="missing">The image is not available.</p>'
                    continue
                yield _picture(image, FRAME_SIDE if len(pictures) > 2 else CROP_SIDE, self._share)
            yield "</div>"
        shown = _text(text.strip(), "masked" if self._says_loss else "")
        yield f"<details><summary>text of the observation</summary>{shown}</details>" if pictures else shown


def _header(trajectory: Trajectory, correct: float | None, label: str) -> str:
    made = len(trajectory.operations)
    chips = [f'<span class="chip">{made} operation{"" if made == 1 else "s"}</span>']
    if trajectory.sampled:
        chips.append(f'<span class="chip">{trajectory.sampled:,} tokens written</span>')
    if trajectory.ended is not None and trajectory.ended != Ended.ANSWER:
        chips.append(f'<span class="chip bad">stopped: {ENDED[trajectory.ended]}</span>')
    if trajectory.policy_version is not None:
        updates = trajectory.policy_version
        chips.append(f'<span class="chip">policy after {updates:,} update{"" if updates == 1 else "s"}</span>')
    badge = "" if correct is None else _badge(correct)
    name = f'<span class="stage">{escape(label)}</span>' if label else ""
    where = f'<span class="where">{escape(trajectory.query_id)}, sample {trajectory.sample}</span>'
    return (
        f'<header>{name}{badge}{"".join(chips)}{where}</header><h3 class="question">{escape(trajectory.question)}</h3>'
    )


def _badge(correct: float) -> str:
    if 0 < correct < 1:
        return f'<span class="chip">score {correct:.2f}</span>'
    return '<span class="chip good">✓ right</span>' if correct else '<span class="chip bad">✗ wrong</span>'


def _verdict(trajectory: Trajectory, correct: float | None) -> str:
    answer = extract_answer(trajectory.response)
    references = [trajectory.reference] if isinstance(trajectory.reference, str) else trajectory.reference
    given = f"<b>{escape(answer)}</b>" if answer else '<span class="missing">no answer in a box</span>'
    state = "" if correct is None else " good" if correct else " bad"
    wanted = ""
    if any(references):
        wanted = f'<span class="wanted">reference: <b>{escape(" or ".join(map(str, references)))}</b></span>'
    lost = ""
    if not trajectory.recovered:
        lost = '<span class="wanted">the last operation failed, which training counts as wrong</span>'
    return f'<div class="verdict{state}"><span>answer: {given}</span>{wanted}{lost}</div>'


def _answer_text(item: dict[str, Any]) -> Iterator[str]:
    """A text of the assistant without its call, which is shown below it. Text that carries no loss is underlined."""
    text = _CALL.sub("", item.get("text", "")).strip()
    if text:
        yield _text(text, "masked" if item.get("train") is False else "")


def _operation(number: int, record: OperationRecord, call: str, masked: bool) -> str:
    """A call in one line, which opens to the text that the model wrote; underlined if that carries no loss."""
    name = escape(record.name) if record.name else "unreadable call"
    arguments = "" if record.arguments is None else f"<code>{escape(_clip(arguments_text(record)))}</code>"
    asked = f"<b>{name}</b> {arguments}"
    if record.succeeded:
        outcome = f'<span class="outcome">→ {escape(sizes_text(record.sizes))}</span>'
    else:
        outcome = f'<span class="outcome error">✗ {escape(_clip(record.error.strip()))}</span>'
    return (
        f'<details class="operation{_colour_class([(number, record)])}"><summary><span class="number">{number}</span>'
        f"{_masked(asked) if masked else asked} {outcome}</summary>{_text(call.strip(), 'masked' if masked else '')}"
        "</details>"
    )


def _colour_class(calls: list[tuple[int, OperationRecord]]) -> str:
    """The CSS class that gives an operation, its observation and its box the same colour."""
    if not calls:
        return ""
    number, record = calls[-1]
    return f" mark-{(number - 1) % COLOURS + 1}" if record.succeeded else " failed"


def _picture(
    image: Image.Image, side: int, max_bytes: int, boxes: Sequence[CropBox] = (), caption: str = "", kind: str = ""
) -> str:
    """A picture with boxes drawn over it, in coordinates of the full-size picture."""
    width, height = image.size
    shown = thumbnail(image, side)
    # A page shows a query's image about 290 pixels wide and a frame about 88: the tag keeps its size on both.
    tag = width * 16 / (88 if side == FRAME_SIDE else 290)
    overlay = (
        f'<svg viewBox="0 0 {width} {height}">{"".join(_box_svg(crop, tag) for crop in boxes)}</svg>' if boxes else ""
    )
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="{kind}" style="--w:{shown.width}px"><div class="stack">'
        f'<img src="{data_uri(image, side, max_bytes)}" width="{shown.width}" height="{shown.height}" alt="">'
        f"{overlay}</div>{below}</figure>"
    )


def _box_svg(crop: CropBox, tag: float) -> str:
    left, top, right, bottom = crop.box
    where = f'x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}"'
    return (
        f'<g class="mark-{(crop.number - 1) % COLOURS + 1}">'
        f"<title>operation {crop.number}: {left:g}, {top:g} to {right:g}, {bottom:g}</title>"
        f'<rect class="halo" {where}/><rect class="box" {where}/>'
        f'<rect class="tag" x="{left:g}" y="{top:g}" width="{tag:.1f}" height="{tag:.1f}"/>'
        f'<text x="{left + tag / 2:.1f}" y="{top + tag * 0.76:.1f}" font-size="{tag * 0.75:.1f}" '
        f'text-anchor="middle">{crop.number}</text></g>'
    )


def _masked(html: str) -> str:
    """A piece of HTML, underlined, with a hint that it carries no loss."""
    return f'<span class="masked" title="carries no loss">{html}</span>'


def _text(text: str, kind: str = "") -> str:
    title = ' title="carries no loss"' if kind == "masked" else ""
    return f'<p class="text {kind}"{title}>{escape(_clip(text))}</p>'


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} characters more)"


def _size_note(item: dict[str, Any]) -> str:
    if item.get("type") == "video":
        return f", {len(video_frames(item['video']))} frames"
    size = image_size(item.get("image"))
    return f", {size[0]} × {size[1]} px" if size else ""
