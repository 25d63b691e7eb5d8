"""Trajectories and queries as the examples of a TFDS data set, and back.

Fields that every record has are columns. Conversations, operations and attributes differ from record to record and are
stored as JSON text, in which a number into the column `media`, which holds the encoded files, stands for each medium.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.draft import Draft
from data_pipeline.records.media import MediaEntry, MediaTable, StoredMedia
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.chat import content_items
from pixel_reasoner_jax.trajectory import OperationRecord

SCHEMA = 3
"""The version of the columns, and the major version of the TFDS data set."""

FindFile = Callable[[int, str], bytes]
"""(index of another record in the shard, digest) to the bytes of the file that is stored with that record."""

TEXT = tfds.features.Text()
MEDIA = tfds.features.Sequence(
    {
        "kind": TEXT,
        "data": tfds.features.Tensor(shape=(), dtype=np.bytes_),
        "path": TEXT,
        "digest": TEXT,
        "record": np.int64,
    }
)


class RecordCodec(Protocol):
    """How one kind of record becomes columns and back. The docstring of an implementation is stored in data sets."""

    features: tfds.features.FeaturesDict

    def encode(self, record: Any, media: MediaTable) -> dict[str, Any]:
        """The columns of a record, except `media`: the record's media are added to the table."""

    def decode(self, columns: Mapping[str, Any], media: StoredMedia) -> Any:
        """The record that the columns hold."""


class TrajectoryCodec:
    """Drafts. Columns `query_id`, `question`, `answers`, `type`, and as JSON `messages`, `operations`, `attributes`."""

    features = tfds.features.FeaturesDict(
        {
            "query_id": TEXT,
            "question": TEXT,
            "answers": tfds.features.Sequence(TEXT),
            "type": TEXT,
            "messages": TEXT,
            "operations": TEXT,
            "attributes": TEXT,
            "media": MEDIA,
        }
    )

    def encode(self, record: Draft, media: MediaTable) -> dict[str, Any]:
        return {
            "query_id": _text(record.query_id),
            "question": _text(record.question),
            "answers": _answers(record.reference),
            "type": record.kind,
            "messages": _json([_without_media(message, media) for message in record.messages]),
            "operations": _json([dataclasses.asdict(operation) for operation in record.operations]),
            "attributes": _attributes(record.attributes),
        }

    def decode(self, columns: Mapping[str, Any], media: StoredMedia) -> Draft:
        return Draft(
            query_id=columns["query_id"].decode(),
            question=columns["question"].decode(),
            reference=_reference(columns["answers"]),
            kind=columns["type"].decode(),
            messages=[_with_media(message, media) for message in json.loads(columns["messages"])],
            operations=tuple(map(OperationRecord.from_dict, json.loads(columns["operations"]))),
            attributes=json.loads(columns["attributes"]),
        )


class QueryCodec:
    """Queries. Columns `query_id`, `question`, `answers`, `images`, `video`, and as JSON `attributes`: other keys."""

    features = tfds.features.FeaturesDict(
        {
            "query_id": TEXT,
            "question": TEXT,
            "answers": tfds.features.Sequence(TEXT),
            "images": tfds.features.Sequence(np.int64),
            "video": tfds.features.Sequence(np.int64),
            "attributes": TEXT,
            "media": MEDIA,
        }
    )

    def encode(self, record: Mapping[str, Any], media: MediaTable) -> dict[str, Any]:
        known = ("id", "question", "answer", "images", "video")
        return {
            "query_id": _text(record["id"]),
            "question": _text(record["question"]),
            "answers": _answers(record["answer"]) if "answer" in record else [],
            "images": [media.image(image) for image in record.get("images") or ()],
            "video": media.video(record["video"]) if record.get("video") is not None else [],
            "attributes": _attributes({key: value for key, value in record.items() if key not in known}),
        }

    def decode(self, columns: Mapping[str, Any], media: StoredMedia) -> dict[str, Any]:
        query = {"id": columns["query_id"].decode(), "question": columns["question"].decode()}
        if len(columns["answers"]):
            query["answer"] = _reference(columns["answers"])
        if len(columns["images"]):
            query["images"] = [media.image(number) for number in columns["images"]]
        if len(columns["video"]):
            query["video"] = media.video(columns["video"])
        return query | json.loads(columns["attributes"])


CODECS: dict[str, RecordCodec] = {"trajectory": TrajectoryCodec(), "query": QueryCodec()}
RECORD_KINDS = tuple(CODECS)


def encode_record(kind: str, record: Any, stored_in: Mapping[str, int]) -> tuple[bytes, list[MediaEntry]]:
    """A record as the bytes of an ArrayRecord; equal records give equal bytes.

    Args:
      kind: one of `RECORD_KINDS`.
      record: a `Draft` or a query, which has passed `reader.check_form`.
      stored_in: see `MediaTable`.

    Returns:
      The bytes, and the entries of the record's media.

    Raises:
      UserError: an attribute cannot be stored as JSON; the message names it.
    """
    media = MediaTable(stored_in)
    columns = CODECS[kind].encode(record, media)
    columns["media"] = [dataclasses.asdict(entry) for entry in media.entries]
    example = _serializer(kind).get_tf_example(CODECS[kind].features.encode_example(columns))
    return example.SerializeToString(deterministic=True), media.entries


def decode_record(kind: str, columns: Mapping[str, Any], find: FindFile) -> Any:
    """The record of an example's columns, as TFDS reads them; its images remain encoded."""
    return CODECS[kind].decode(columns, StoredMedia(media_entries(columns), find))


def media_entries(columns: Mapping[str, Any]) -> list[MediaEntry]:
    """The column `media`, row by row."""
    media = columns["media"]
    rows = zip(media["kind"], media["data"], media["path"], media["digest"], media["record"], strict=True)
    return [
        MediaEntry(kind.decode(), data, path.decode(), digest.decode(), int(record))
        for kind, data, path, digest, record in rows
    ]


@functools.cache
def _serializer(kind: str) -> tfds.core.example_serializer.ExampleSerializer:
    return tfds.core.example_serializer.ExampleSerializer(CODECS[kind].features.get_serialized_info())


def _text(text: str) -> str:
    """The text with "?" for each lone surrogate, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _attributes(attributes: Mapping[str, Any]) -> str:
    for name, value in attributes.items():
        try:
            _json({name: value})
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"its {name!s:.80} cannot be stored as JSON: {error}") from None
    return _json(attributes)


def _answers(reference: str | list[str]) -> list[str]:
    answers = list(reference) if isinstance(reference, list | tuple) else [reference]
    return list(map(_text, answers))


def _reference(answers: list[bytes]) -> str | list[str]:
    """One answer is a text, several are a list."""
    texts = [answer.decode() for answer in answers]
    return texts[0] if len(texts) == 1 else texts


def _without_media(message: Mapping[str, Any], media: MediaTable) -> dict[str, Any]:
    """A message in which numbers into the media table stand for images and videos, without keys that have no value."""
    add = {"image": media.image, "video": media.video}
    stored = []
    for kind, item in content_items(message):
        given = {"type": kind} | {key: value for key, value in item.items() if value is not None}
        stored.append({key: add[key](value) if key in add else value for key, value in given.items()})
    return {**message, "content": stored}


def _with_media(message: dict[str, Any], media: StoredMedia) -> dict[str, Any]:
    """The inverse of `_without_media`."""
    get = {"image": media.image, "video": media.video}
    items = [{key: get[key](value) if key in get else value for key, value in i.items()} for i in message["content"]]
    return {**message, "content": items}
