"""Rows of tables to trajectories and queries.

A trajectory is a row with a conversation: `message_list`, as Pixel Reasoner's released data have it, `messages` or
`conversations`; see `forms`. A query is any other row; see `rows`. Rows that `exporting` wrote have more columns, which
are read too. Whether what a row holds can be trained on is not asked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.exchange.columns import parsed, plain, read_answers, read_mapping
from data_pipeline.exchange.forms import CONVERSATIONS, conversation_in_our_form
from data_pipeline.exchange.loss_masks import with_loss_mask
from data_pipeline.exchange.media_files import MediaFiles
from data_pipeline.exchange.rows import check_columns, read_row, row_id
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.operations import OperationError
from pixel_reasoner_jax.operations.calls import parse_call
from pixel_reasoner_jax.processing.chat import content_items
from pixel_reasoner_jax.processing.geometry import TOKEN_SIZE
from pixel_reasoner_jax.processing.items import SIZE_KEYS, ItemSizes
from pixel_reasoner_jax.query import is_missing
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.trajectory import OperationRecord

_OWN_COLUMNS = frozenset({*CONVERSATIONS, "system", "type", "operations"})
_READ = _OWN_COLUMNS | {"attributes", "id", "qid", "question", "answer", "image", "images", "video", "videos"}
"""Columns of a trajectory's row that are no attributes; its media have their places in the conversation."""

_GUIDELINES = re.compile(r"\s*\n\n(?:Guidelines:|Please think step by step).*", re.DOTALL)
_ERROR = "Execution error:"
_SIZE = re.compile(r"(?:Image|Frame) Size: (\d+)x(\d+)")


def row_to_trajectory(row: Mapping[str, Any], name: str, files: MediaFiles, mask: str) -> Draft:
    """The trajectory of a row with a conversation.

    Args:
      row: `id` or `qid`, `question`, `answer`, `type`, `operations` and `attributes` are taken if present, and
        otherwise derived from the conversation.
      name: the id for a row without one.
      files: reads the row's media.
      mask: the rule for conversations without `train` flags; see `loss_masks`.

    Raises:
      ValueError: the row is not such a conversation (UserError), or its media cannot be read (MediaError). A row of
        unexpected structure may raise anything; `table_source` catches all.
    """
    messages = _messages(row, files)
    if messages[-1]["role"] != "assistant" or not _text(messages[-1]):
        raise UserError("the conversation does not end with the assistant's answer")
    asked = next((message for message in messages if message["role"] == "user"), None)
    if asked is None:
        raise UserError("nobody asks in the conversation")
    row = {column: value for column, value in row.items() if not is_missing(value)}
    check_columns(row, _OWN_COLUMNS)
    operations = _stored_operations(row) or _operations(messages)
    answers = read_answers(row.get("answer")) or [extract_answer(_text(messages[-1])) or ""]
    attributes = {column: plain(value, column) for column, value in row.items() if column not in _READ}
    return Draft(
        query_id=row_id(row) or name,
        question=_column_text(row, "question") or _GUIDELINES.sub("", _text(asked)).strip(),
        reference=answers[0] if len(answers) == 1 else answers,
        kind=_column_text(row, "type") or template_of(operations),
        messages=with_loss_mask(messages, operations, mask),
        operations=tuple(operations),
        attributes=attributes | read_mapping(row.get("attributes", {}), "attributes"),
    )


def row_to_query(row: Mapping[str, Any], name: str, files: MediaFiles, answered: bool = True) -> dict[str, Any]:
    """The query of a row without a conversation; arguments and errors as of `row_to_trajectory`.

    Args:
      answered: whether it must have an answer.
    """
    read = read_row(row, files)
    for column in ("question", *(["answer"] if answered else [])):
        if column not in read:
            raise UserError(f"it has no {column}; its columns are {', '.join(map(str, row))[:200]}")
    attributes = read.pop("attributes", {})
    return {"id": name, **read, **attributes}


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


def _stored_operations(row: Mapping[str, Any]) -> list[OperationRecord]:
    given = parsed(row.get("operations", []), "operations")
    if not isinstance(given, list):
        raise UserError(f"operations is {shown(given)}; it is a list")
    try:
        return list(map(OperationRecord.from_dict, given))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"operations is {shown(given)}; it is a list as export-data writes it") from None


def _column_text(row: Mapping[str, Any], column: str) -> str | None:
    text = row.get(column)
    if text is not None and not isinstance(text, str):
        raise UserError(f"{column} is {shown(text)}; it is a text")
    return text and text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored


def _messages(row: Mapping[str, Any], files: MediaFiles) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, message in enumerate(conversation_in_our_form(row)):
        items = []
        for kind, item in content_items(message, f"message {number}"):
            try:
                items.append(_item(kind, item, files, messages))
            except UserError as error:
                raise UserError(f"message {number}: {error}") from None
        messages.append({"role": message["role"], "content": items})
    return messages


def _item(kind: str, item: Mapping[str, Any], files: MediaFiles, before: list[dict[str, Any]]) -> dict[str, Any]:
    """An item without unused keys. An image after the assistant's first turn was returned by an operation."""
    if kind == "text":
        flag = item.get("train")
        return {"type": "text", "text": item["text"]} | ({} if flag is None else {"train": bool(flag)})
    ItemSizes.of(kind, item, TOKEN_SIZE)  # only as a check
    sizes = {key: item[key] for key in SIZE_KEYS if item.get(key) is not None}
    if kind == "video":
        return {"type": "video", "video": files.video(item["video"]), **sizes}
    image = item["image"]
    image = image[0] if isinstance(image, list) and len(image) == 1 else image
    found: dict[str, Any] = {"type": "image", "image": files.image(image), **sizes}
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


def _text(message: Mapping[str, Any]) -> str:
    return "".join(item["text"] for item in message["content"] if item["type"] == "text")
