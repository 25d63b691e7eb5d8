"""Other projects' rows in our form: EasyR1 and verl for queries; ShareGPT, LLaVA and LLaMA-Factory for conversations.

| form | columns |
|---|---|
| EasyR1 | `problem` with `<image>` where an image goes, `answer`, `images` |
| verl | `prompt`, a list of messages; `reward_model` with `ground_truth`; `images` or `videos`; `data_source`, `ability`, `extra_info` |
| ShareGPT, LLaVA | `conversations` of `from` and `value` with `<image>` and `<video>`; `image`, `images` or `video` |
| OpenAI, Qwen, LLaMA-Factory | `messages` of `role` and `content`, a text with `<image>` and `<video>` or a list of items; `images`, `videos` |
| Pixel Reasoner | `message_list`, like `messages` |
"""  # noqa: E501  a table row is one line

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.processing.chat import ROLES

CONVERSATIONS = ("message_list", "messages", "conversations")
"""Columns that hold a conversation; a row with one of them is a trajectory."""

MEDIA = ("image", "video")
"""Kinds of media; a row has them in columns of these names, or several in `images` and `videos`."""

_VERL = {"data_source": "source", "ability": "category", "extra_info": "extra"}  # columns and our names for them
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_PLACEHOLDER = re.compile(r"<(image|video)>")
_OWN_SOURCES = ("image_url", "video_url", "path", "url", "base64", "bytes")


def conversation_column(row: Mapping[str, Any]) -> str | None:
    """The column with a row's conversation; None of a query."""
    return next((name for name in CONVERSATIONS if row.get(name) is not None), None)


def listed(value: Any) -> list[Any]:
    """One or several values as a list."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def media_of(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The media beside a row's text, by kind. A list of images is several; a list under `video` is one, its frames."""
    video = [] if row.get("video") in (None, []) else [row["video"]]
    return {
        "image": [*listed(row.get("image")), *listed(row.get("images"))],
        "video": [*video, *listed(row.get("videos"))],
    }


def query_in_our_form(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of EasyR1's or verl's form with our columns; any other row as it is.

    Raises:
      UserError: a prompt that is no single question, or placeholders that do not match the row's media.
    """
    row = dict(row)
    foreign = True
    if "problem" in row and "question" not in row:
        row["question"] = row.pop("problem")
    elif isinstance(row.get("prompt"), list) and "question" not in row:
        row["question"], media = _asked(row.pop("prompt"))
        for name, ours in _VERL.items():
            if name in row and ours not in row:
                row[ours] = row.pop(name)
        judged = row.pop("reward_model", None)
        if isinstance(judged, Mapping) and "answer" not in row:
            row["answer"] = judged.get("ground_truth")
        for kind, sources in media.items():
            if sources:
                row[f"{kind}s"] = [*sources, *listed(row.get(f"{kind}s"))]
    else:
        foreign = False
    if isinstance(row.get("question"), str):
        counts = {kind: len(sources) for kind, sources in media_of(row).items()}
        row["question"] = _without_placeholders(row["question"], counts, foreign)
    return row


def conversation_in_our_form(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row: `role`, and `content` as a list of items in which the row's media have their places.

    Raises:
      UserError: no list of messages, an unknown role, or placeholders that do not match the row's media.
    """
    column = conversation_column(row)
    given = row[column]
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise UserError(f"{column} is the text {shown(given)}, no JSON; it is a list of messages") from None
    if not isinstance(given, list | tuple) or not given:
        raise UserError(f"{column} is {shown(given)}; it is a list of messages")
    messages = [_message(message, f"message {number}") for number, message in enumerate(given)]
    if isinstance(row.get("system"), str) and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": row["system"]})
    return _with_media(messages, row)


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f"{place} is {shown(message)}; it is a mapping of role and content")
    if message.get("tool_calls"):
        raise UserError(f"{place}: tool_calls are not read; a call is a text in <tool_call> tags")
    role, content = message.get("role"), message.get("content")
    if role is None and "from" in message:
        role, content = message["from"], message.get("value")
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise UserError(f"{place}: role is {shown(role)}; it is one of {', '.join(ROLES)}")
    if content is None:
        raise UserError(f"{place}: it has no content")
    return {"role": role, "content": content}


def _with_media(messages: list[dict[str, Any]], row: Mapping[str, Any]) -> list[dict[str, Any]]:
    beside = media_of(row)
    texts = [message["content"] for message in messages if isinstance(message["content"], str)]
    written = [kind for text in texts for kind in _PLACEHOLDER.findall(text)]
    empty = [kind for message in messages for item in listed(message["content"]) if (kind := _without_source(item))]
    asked = {kind: written.count(kind) + empty.count(kind) for kind in MEDIA}
    if not any(asked.values()) and sum(map(len, beside.values())) == 1 and not _shows_media(messages):
        first = next((message for message in messages if message["role"] == "user"), messages[0])
        [kind] = [kind for kind, sources in beside.items() if sources]
        items = [{"type": "text", "text": first["content"]}] if isinstance(first["content"], str) else first["content"]
        first["content"] = [{"type": kind, kind: beside[kind][0]}, *listed(items)]  # as LLaVA puts it
        return messages
    if not any(asked.values()) and _shows_media(messages):
        return messages  # those beside it are the same ones
    for kind, sources in beside.items():
        if len(sources) != asked[kind]:
            raise UserError(f"the conversation has {asked[kind]} places for {kind}s (<{kind}>), the row {len(sources)}")
    left = {kind: iter(sources) for kind, sources in beside.items()}
    for message in messages:
        message["content"] = [part for item in listed(message["content"]) for part in _filled(item, left)]
    return messages


def _without_source(item: Any) -> str | None:
    """The kind of an item that only marks the place of a medium; None of any other item."""
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind not in MEDIA or any(item.get(key) is not None for key in (kind, *_OWN_SOURCES)):
        return None
    return kind


def _shows_media(messages: list[dict[str, Any]]) -> bool:
    keys = (*MEDIA, *_OWN_SOURCES)
    items = [item for message in messages for item in listed(message["content"]) if isinstance(item, Mapping)]
    return any(item.get(key) is not None for item in items for key in keys)


def _filled(item: Any, left: Mapping[str, Any]) -> list[Any]:
    """The items that stand for an item, or for a text with placeholders."""
    if kind := _without_source(item):
        return [{**item, kind: next(left[kind])}]
    if not isinstance(item, str):
        return [item]
    parts = []
    for number, part in enumerate(_PLACEHOLDER.split(item)):
        if number % 2:
            parts.append({"type": part, part: next(left[part])})
        elif part:
            # A line break after a placeholder is part of how it is written.
            parts.append({"type": "text", "text": part.removeprefix("\n") if number else part})
    return [part for part in parts if part.get("text") != ""]


def _asked(prompt: list[Any]) -> tuple[str, dict[str, list[Any]]]:
    """The question of verl's prompt, with a placeholder for every medium, and the media in its messages."""
    messages = [_message(message, f"prompt, message {number}") for number, message in enumerate(prompt)]
    questions = [message["content"] for message in messages if message["role"] != "system"]
    if len(questions) != 1 or messages[-1]["role"] != "user":
        raise UserError(f"its prompt has {len(questions)} turns; a query is one question of the user")
    media: dict[str, list[Any]] = {kind: [] for kind in MEDIA}
    text = ""
    for item in listed(questions[0]):
        if isinstance(item, str):
            text += item
        elif isinstance(item, Mapping) and isinstance(item.get("text"), str):
            text += item["text"]
        elif isinstance(item, Mapping) and item.get("type") in MEDIA:
            text += f"<{item['type']}>"
            if item.get(item["type"]) is not None:
                media[item["type"]].append(item[item["type"]])
        else:
            raise UserError(f"its prompt has an item {shown(item)}; it is a text or the place of a medium")
    return text, media


def _without_placeholders(question: str, counts: Mapping[str, int], foreign: bool) -> str:
    """The question without placeholders: media come before it; one within the text becomes "image 2" or the like."""
    written = _PLACEHOLDER.findall(question)
    if not written:
        return question
    for kind, count in counts.items():
        if written.count(kind) != count:
            if not foreign:
                return question  # it may be about markup
            raise UserError(f"the question has {written.count(kind)} places for {kind}s (<{kind}>), the row {count}")
    numbers = dict.fromkeys(MEDIA, 0)

    def name(match: re.Match) -> str:
        numbers[match[1]] += 1
        before = question[: match.start()]
        if not _PLACEHOLDER.sub("", before).strip() or not _PLACEHOLDER.sub("", question[match.end() :]).strip():
            return ""
        return f"{match[1]} {numbers[match[1]]}" if counts[match[1]] > 1 else f"the {match[1]}"

    return _PLACEHOLDER.sub(name, question).strip()
