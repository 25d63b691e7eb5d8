"""Rows in the form of Pixel Reasoner's released data to trajectories and queries.

A trajectory is a row with `message_list`: messages with `role` and `content`, a list of items of `text`, `image` or
`video`. A query is a row with `question`, `answer`, `image` (a list; the frames of a video), `is_video` and `qid`.
Rows that `exporting` wrote have more columns, which are read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.exchange.loss_masks import with_loss_mask
from data_pipeline.exchange.media_files import MediaFiles
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import OperationError
from pixel_reasoner_jax.operations.calls import parse_call
from pixel_reasoner_jax.processing.chat import ROLES, content_items
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.trajectory import OperationRecord

MESSAGES_COLUMN = "message_list"

_GUIDELINES = re.compile(r"\s*\n\n(?:Guidelines:|Please think step by step).*", re.DOTALL)
_ERROR = "Execution error:"
_SIZE = re.compile(r"(?:Image|Frame) Size: (\d+)x(\d+)")


def row_to_trajectory(row: Mapping[str, Any], name: str, files: MediaFiles, mask: str) -> Draft:
    """The trajectory of a row with `message_list`.

    Args:
      row: `qid`, `question`, `answer`, `type`, `operations` and `attributes` are taken if present, and otherwise
        derived from the conversation.
      name: the id for a row without `qid`.
      files: reads the row's media.
      mask: the rule for conversations without `train` flags; see `loss_masks`.

    Raises:
      ValueError: the row is not such a conversation (UserError), or its media cannot be read (MediaError). A row of
        unexpected structure may raise anything; `importing` catches all.
    """
    messages = _messages(row[MESSAGES_COLUMN], files)
    if messages[-1]["role"] != "assistant" or not _text(messages[-1]):
        raise UserError("the conversation does not end with the assistant's answer")
    asked = next((message for message in messages if message["role"] == "user"), None)
    if asked is None:
        raise UserError("nobody asks in the conversation")
    stored = map(OperationRecord.from_dict, json.loads(row.get("operations") or "[]"))
    operations = list(stored) or _operations(messages)
    answer = row.get("answer")
    return Draft(
        query_id=_id(row, name),
        question=row.get("question") or _GUIDELINES.sub("", _text(asked)).strip(),
        reference=extract_answer(_text(messages[-1])) or "" if answer in (None, []) else _answer(answer),
        kind=row.get("type") or template_of(operations),
        messages=with_loss_mask(messages, operations, mask),
        operations=tuple(operations),
        attributes=json.loads(row.get("attributes") or "{}"),
    )


def row_to_query(row: Mapping[str, Any], name: str, files: MediaFiles) -> dict[str, Any]:
    """The query of a row without `message_list`; arguments and errors as of `row_to_trajectory`."""
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"question is {question!r}; it is a text")
    query: dict[str, Any] = {"id": _id(row, name), "question": question}
    if row.get("answer") in (None, "", []):
        raise UserError("it has no answer")
    query["answer"] = _answer(row["answer"])
    media = row.get("image")
    media = [media] if isinstance(media, str | bytes | Mapping) else list(media if media is not None else ())
    if row.get("is_video"):
        query["video"] = files.video(media)
        if row.get("fps"):
            query["fps"] = float(row["fps"])
    elif media:
        query["images"] = [files.image(image) for image in media]
    if row.get("pass_rate") is not None:
        query["pass_rate"] = float(row["pass_rate"])
    return query | json.loads(row.get("attributes") or "{}")


def template_of(operations: list[OperationRecord]) -> str:
    """The kind of trajectory whose template makes such operations; "other" if there is none."""
    names = {operation.name for operation in operations}
    if len(operations) < 2:
        return "single_pass" if operations else "text_only"
    if names == {"select_frames"}:
        return "reselect" if len(operations) == 2 else "other"
    if "select_frames" in names or len(operations) > 3:
        return "other"
    boxes = [(operation.arguments or {}).get("bbox_2d") for operation in operations]
    if len(operations) == 3:
        return "recrop_twice"
    return "further_zoom" if _contains(*boxes) else "recrop_once"


def _messages(given: Any, files: MediaFiles) -> list[dict[str, Any]]:
    if isinstance(given, str):
        given = json.loads(given)
    if not isinstance(given, list) or not given:
        raise UserError(f"{MESSAGES_COLUMN} is {type(given).__name__}; it is a list of messages")
    messages = []
    for number, message in enumerate(given):
        location = f"message {number}"
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, Mapping) else message
            raise UserError(f"{location}: role is {role!r:.80}; it is one of {', '.join(ROLES)}")
        items = [_item(kind, item, files, messages) for kind, item in content_items(message, location)]
        messages.append({"role": message["role"], "content": items})
    return messages


def _item(kind: str, item: Mapping[str, Any], files: MediaFiles, before: list[dict[str, Any]]) -> dict[str, Any]:
    """An item without unused keys. An image after the assistant's first turn was returned by an operation."""
    if kind == "text":
        flag = item.get("train")
        return {"type": "text", "text": item["text"]} | ({} if flag is None else {"train": bool(flag)})
    if kind == "video":
        rate = item.get("fps")
        return {"type": "video", "video": files.video(item["video"])} | ({} if rate is None else {"fps": float(rate)})
    image = item["image"]
    image = image[0] if isinstance(image, list) and len(image) == 1 else image
    found: dict[str, Any] = {"type": "image", "image": files.image(image)}
    kinds = [i["type"] for message in before for i in message["content"]]
    answered = any(message["role"] == "assistant" for message in before)
    budget = item.get("kind") or (("frame" if "video" in kinds else "crop") if answered else None)
    return found | ({"kind": budget} if budget else {})


def _operations(messages: list[dict[str, Any]]) -> list[OperationRecord]:
    """The calls that got an observation, with what the observation says of their outcome."""
    operations, turn = [], -1
    for message, after in zip(messages, messages[1:], strict=False):
        turn += message["role"] == "assistant"
        call = parse_call(_text(message), last_wins=True) if message["role"] == "assistant" else None
        if call is None:
            continue
        observed = _text(after)
        error = observed.partition(_ERROR)[2].strip() if _ERROR in observed else None
        if isinstance(call, OperationError):
            operations.append(OperationRecord(turn, None, None, error or str(call)))
            continue
        images = sum(item["type"] == "image" for item in after["content"])
        size = _SIZE.search(observed)
        sizes = (tuple(map(int, size.groups())),) * images if size else ()
        operations.append(OperationRecord(turn, call.name, call.arguments, error, sizes=sizes))
    return operations


def _contains(outer: Any, inner: Any) -> bool:
    try:
        return all(a <= b for a, b in zip(outer[:2], inner[:2], strict=True)) and all(
            a >= b for a, b in zip(outer[2:], inner[2:], strict=True)
        )
    except (TypeError, ValueError):
        return False


def _id(row: Mapping[str, Any], name: str) -> str:
    given = row.get("qid")
    return name if given in (None, "") else str(given)


def _answer(given: Any) -> str | list[str]:
    """The answer, or several, as text."""
    answers = [str(answer) for answer in (given if isinstance(given, list | tuple) else [given])]
    return answers[0] if len(answers) == 1 else answers


def _text(message: Mapping[str, Any]) -> str:
    return "".join(item["text"] for item in message["content"] if item["type"] == "text")
