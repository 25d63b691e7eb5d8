"""A trajectory as a piece of HTML: what `entries` describes, as viewer/page/detail.js draws it, without a script.

Everything in a trajectory is untrusted (the model wrote it, or a data set did) and passes through `escape`. The
fragment needs the style sheet of `page` and nothing from the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from pixel_reasoner_jax.report.entries import Entry, Facts, Shown, TokenTexts, entry
from pixel_reasoner_jax.report.images import data_uri, open_image, thumbnail
from pixel_reasoner_jax.report.text import counted, escape, sizes_text
from pixel_reasoner_jax.trajectory import Trajectory

SCENE_SIDE, CROP_SIDE, FRAME_SIDE = 640, 320, 200  # longest side of a thumbnail in pixels
COLOURS = 5  # the style sheet has --mark-1 to --mark-5

Fields = Mapping[str, Any]


def trajectory_html(
    trajectory: Trajectory,
    *,
    correct: float | None = None,
    facts: Facts | None = None,
    label: str = "",
    max_bytes: int = 160_000,
    texts: TokenTexts | None = None,
) -> str:
    """One trajectory as an `<article>`.

    Args:
      trajectory: its images are taken from the messages, or rebuilt from `media` if those hold no pixels.
      correct: the answer's score, 1 right and 0 wrong; None if it was not scored.
      facts: what is known beyond; None: the score alone.
      label: text of the heading, for example the stage of training.
      max_bytes: the encoded pictures together take about so many bytes; each gets an equal share.
      texts: of tokens, which are shaded then; None: they are not shown.
    """
    pictures = _Embedded()
    found = entry(trajectory, facts or Facts(score=correct), pictures, texts or TokenTexts(None))
    pictures.share(max_bytes)
    return "".join(_article(found, label, pictures))


class _Embedded:
    """The pictures of an article, which holds them itself."""

    def __init__(self) -> None:
        self._images: list[Image.Image] = []
        self._bytes = 0

    def add(self, source: Any) -> Shown | None:
        image = open_image(source)
        if image is None:
            return None
        self._images.append(image)
        return {"number": len(self._images) - 1, "width": image.width, "height": image.height}

    def share(self, max_bytes: int) -> None:
        """Divides the bytes among the pictures, of which the query's is the larger; base64 adds a third."""
        self._bytes = max(1500, int(max_bytes * 0.75 / (len(self._images) + 2)))

    def tag(self, shown: Shown, side: int) -> str:
        """The element of a picture, no more than `side` pixels on its longer side."""
        image, most = self._images[shown["number"]], self._bytes * (3 if side == SCENE_SIDE else 1)
        width, height = thumbnail(image, side).size
        return f'<img src="{data_uri(image, side, most)}" width="{width}" height="{height}" alt="">'


def _article(found: Entry, label: str, pictures: _Embedded) -> Iterator[str]:
    messages = found.detail["messages"]
    first = next((index for index, one in enumerate(messages) if one["role"] == "assistant"), len(messages))
    yield f'<article class="card trajectory">{_heading(found, label)}'
    yield f'<h3 class="question">{escape(found.detail["question"])}</h3>'
    yield '<div class="columns"><div class="scenes">'
    yield from _scenes(found.detail, messages[:first], pictures)
    yield '</div><div class="talk">'
    yield from _turns(found.detail, messages[first:], pictures)
    yield _verdict(found)
    yield _rewards(found)
    yield from _prompt(messages[:first])
    yield "</div></div></article>"


def _heading(found: Entry, label: str) -> str:
    row, detail = found.row, found.detail
    chips = [_badge(row["score"]), _chip(counted(row["operations"], "operation", "operations"))]
    if row["failed"]:
        chips.append(_chip(f"{row['failed']} failed", "bad"))
    if row["tokens"]:
        chips.append(_chip(f"{row['tokens']:,} tokens written"))
    if detail["stopped"]:
        chips.append(_chip(f"stopped: {detail['stopped']}", "bad"))
    if row["advantage"] is not None:
        chips.append(_chip(f"advantage {row['advantage']:+.3g}"))
    if detail["version"] is not None:
        chips.append(_chip(f"policy after {counted(detail['version'], 'update', 'updates')}"))
    chips += map(_chip, row["categories"])
    name = f'<span class="stage">{escape(label)}</span>' if label else ""
    where = f'<span class="where">{escape(row["id"])}, sample {row["sample"]}</span>'
    return f"<header>{name}{''.join(chips)}{where}</header>"


def _chip(text: str, kind: str = "") -> str:
    return f'<span class="{f"chip {kind}".strip()}">{escape(text)}</span>'


def _badge(score: float | None) -> str:
    if score is None:
        return ""
    if 0 < score < 1:
        return _chip(f"score {score:.2f}")
    return _chip("✓ right", "good") if score else _chip("✗ wrong", "bad")


def _scenes(detail: Fields, prompt: Sequence[Fields], pictures: _Embedded) -> Iterator[str]:
    """The query's images, or its video's frames, with the boxes of all crops on them."""
    number = 0
    for item in (item for message in prompt for item in message["items"]):
        frames = item.get("frames", [])
        yield '<div class="strip">' if frames else ""
        for place, shown in enumerate(item.get("images", frames), 1):
            boxes = [box for box in detail["boxes"] if box["picture"] == number]
            object_box = detail["object"] if number == 0 else None
            name = f"frame {place}" if frames else ""
            yield _picture(shown, pictures, FRAME_SIDE if frames else SCENE_SIDE, boxes, object_box, name)
            number += 1
        yield "</div>" if frames else ""
        if "seen" in item:
            size = f"{item['seen']['width']} × {item['seen']['height']} px"
            yield _picture(item["seen"], pictures, CROP_SIDE, caption=f"as the model saw it first: {size}", kind="seen")


def _picture(
    shown: Shown | None,
    pictures: _Embedded,
    side: int,
    boxes: Sequence[Fields] = (),
    object_box: Sequence[float] | None = None,
    caption: str = "",
    kind: str = "",
) -> str:
    """A picture with boxes drawn over it, in its own pixels."""
    if shown is None:
        return '<p class="missing">The image is not available.</p>'
    width, height = shown["width"], shown["height"]
    drawn = [] if object_box is None else [_rectangle(object_box, "object", "what the question is about")]
    drawn += [_tagged(box, width / 18) for box in boxes]
    over = f'<svg viewBox="0 0 {width} {height}">{"".join(drawn)}</svg>' if drawn else ""
    below = caption or f"{width} × {height} px"
    return (
        f'<figure class="{kind}"><div class="stack">{pictures.tag(shown, side)}{over}</div>'
        f"<figcaption>{escape(below)}</figcaption></figure>"
    )


def _rectangle(box: Sequence[float], kind: str, title: str, more: str = "") -> str:
    left, top, right, bottom = box
    where = f'x="{left:g}" y="{top:g}" width="{max(right - left, 0):g}" height="{max(bottom - top, 0):g}"'
    line = "box dashed" if kind == "object" else "box"
    boxes = f'<rect class="halo" {where}/><rect class="{line}" {where}/>'
    return f'<g class="{kind}"><title>{escape(title)}</title>{boxes}{more}</g>'


def _tagged(crop: Fields, side: float) -> str:
    """The box of a crop with the number of the operation that made it."""
    number, (left, top, right, bottom) = crop["number"], crop["box"]
    tag = (
        f'<rect class="tag" x="{left:g}" y="{top:g}" width="{side:.1f}" height="{side:.1f}"/>'
        f'<text x="{left + side / 2:.1f}" y="{top + side * 0.76:.1f}" font-size="{side * 0.75:.1f}" '
        f'text-anchor="middle">{number}</text>'
    )
    title = f"operation {number}: {left:g}, {top:g} to {right:g}, {bottom:g}"
    return _rectangle(crop["box"], _mark(number, failed=False), title, tag)


def _mark(number: int, failed: bool) -> str:
    """The CSS class that gives an operation, its observation and its box the same colour."""
    return "failed" if failed else f"mark-{(number - 1) % COLOURS + 1}"


def _turns(detail: Fields, messages: Sequence[Fields], pictures: _Embedded) -> Iterator[str]:
    """What the assistant wrote, its calls, and what they returned."""
    turn = -1
    for message in messages:
        is_turn = message["role"] == "assistant"
        turn += is_turn
        calls = [(number, one) for number, one in enumerate(detail["operations"], 1) if one["turn"] == turn]
        if is_turn:
            yield f'<div class="turn"><span class="role">Turn {turn + 1}</span>'
            yield from (_text(item["text"], item.get("train", True)) for item in message["items"] if "text" in item)
            yield from (_operation(number, one) for number, one in calls)
            yield from map(_tokens, detail["turns"][turn : turn + 1])
        else:
            mark = f" {_mark(calls[-1][0], calls[-1][1]['error'] is not None)}" if calls else ""
            yield f'<div class="turn observation{mark}">'
            yield from _observation(message, not detail["says_loss"], pictures)
        yield "</div>"


def _tokens(tokens: Fields) -> str:
    """The tokens of a turn, shaded by how unlikely they were; nothing where they have no texts."""
    if "texts" not in tokens:
        return ""
    spans = "".join(map(_shaded, tokens["texts"], tokens["logprobs"]))
    more = f"<em> … {tokens['more']:,} tokens more</em>" if "more" in tokens else ""
    return f'<details><summary>log-probabilities</summary><p class="text tokens">{spans}{more}</p></details>'


def _shaded(text: str, logprob: float | None) -> str:
    if logprob is None:
        return f"<span>{escape(text)}</span>"
    share = round(100 * min(max(-logprob / 4, 0), 1))
    return f'<span class="above" style="--share:{share}%" title="{logprob:.4f}">{escape(text)}</span>'


def _operation(number: int, record: Fields) -> str:
    """A call in one line, which opens to the text that the model wrote; underlined if that carries no loss."""
    failed, name = record["error"] is not None, "unreadable call" if record["name"] is None else record["name"]
    asked = f"<b>{escape(name)}</b> <code>{escape(record['arguments'])}</code>"
    outcome = f"✗ {record['error'].strip()}" if failed else f"→ {sizes_text(record['sizes'])}"
    return (
        f'<details class="operation {_mark(number, failed)}"><summary><span class="number">{number}</span>'
        f'{_masked(asked, record["train"])} <span class="{"error" if failed else "outcome"}">{escape(outcome)}</span>'
        f"</summary>{_text(record['call'], record['train'])}</details>"
    )


def _observation(message: Fields, trained: bool, pictures: _Embedded) -> Iterator[str]:
    yield f'<span class="role">{_masked(_role(message["role"]), trained)}</span>'
    images = [shown for item in message["items"] for shown in item.get("images", item.get("frames", []))]
    text = _text("".join(item.get("text", "") for item in message["items"]), trained)
    if images:
        side = FRAME_SIDE if len(images) > 2 else CROP_SIDE
        yield f'<div class="strip">{"".join(_picture(shown, pictures, side) for shown in images)}</div>'
    yield f"<details><summary>text</summary>{text}</details>" if images and text else text


def _role(role: str) -> str:
    return "Observation" if role in ("user", "tool") else escape(role)


def _text(text: str, trained: bool) -> str:
    """A paragraph, marked by whether it carries loss; nothing for no text."""
    kind = 'class="text trained"' if trained else 'class="text masked" title="carries no loss"'
    return f"<p {kind}>{escape(text.strip())}</p>" if text.strip() else ""


def _masked(html: str, trained: bool) -> str:
    """A piece of HTML, underlined, with a hint, if it carries no loss."""
    return html if trained else f'<span class="masked" title="carries no loss">{html}</span>'


def _verdict(found: Entry) -> str:
    score, detail = found.row["score"], found.detail
    state = "" if score is None else " good" if score >= 0.5 else " bad"
    given = f"<b>{escape(detail['answer'])}</b>" if detail["answer"] else '<i class="missing">none in a box</i>'
    parts = [f"<span>answer: {given}</span>"]
    if detail["reference"]:
        parts.append(f'<span class="wanted">reference: <b>{escape(detail["reference"])}</b></span>')
    if not detail["recovered"]:
        parts.append('<span class="wanted">the last operation failed, which training counts as wrong</span>')
    if detail["problem"]:
        parts.append(f'<span class="error">{escape(detail["problem"])}</span>')
    return f'<div class="verdict{state}">{"".join(parts)}</div>'


def _rewards(found: Entry) -> str:
    if found.row["reward"] is None and not found.detail["terms"]:
        return ""
    sums = {name: found.row[name] for name in ("reward", "advantage")}
    lines = [_line(name, value) for name, value in found.detail["terms"].items()]
    lines += [_line(name, value, ' class="sum"') for name, value in sums.items()]
    return f'<table class="rewards"><tbody>{"".join(lines)}</tbody></table>'


def _line(name: str, value: float | None, kind: str = "") -> str:
    figure = "–" if value is None else f"{value:.4f}"
    return f'<tr{kind}><th scope="row">{escape(name)}</th><td>{figure}</td></tr>'


def _prompt(messages: Sequence[Fields]) -> Iterator[str]:
    if not messages:
        return
    yield '<details class="prompt"><summary>Prompt</summary>'
    for message in messages:
        yield f'<div class="turn"><span class="role">{escape(message["role"])}</span>'
        yield from (_prompt_item(item) for item in message["items"])
        yield "</div>"
    yield "</details>"


def _prompt_item(item: Fields) -> str:
    if "text" in item:
        return f'<p class="text">{escape(item["text"])}</p>'
    shown = item.get("images", item.get("frames"))
    what = f"video, {len(shown)} frames" if "frames" in item else "image"
    size = f", {shown[0]['width']} × {shown[0]['height']} px" if shown[0] else ""
    return f'<p class="note">[{what}{size}]</p>'
