"""Exports a data set to JSON lines or parquet in the released form, for use without JAX."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.exchange.tables import table_writer
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.metrics import Progress
from pixel_reasoner_jax.processing.decoding import digest
from pixel_reasoner_jax.processing.items import SIZE_KEYS

ITEM_KEYS = ("type", "text", "image", "video", "train", "kind", "fps")  # of an item; unused ones are null
IMAGE_SIGNATURES = {
    b"\x89PNG": ".png",
    b"\xff\xd8": ".jpg",
    b"RIFF": ".webp",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II": ".tif",
}


def export_table(dataset: str | os.PathLike, out: str | os.PathLike) -> int:
    """Writes a data set as a table, and its media as files in a folder beside the table, each file once.

    A trajectory becomes a row of `qid`, `question`, `answer` (a list), `type`, `message_list`, and as JSON text
    `operations` and `attributes`. Texts of the assistant keep their `train` flag, and images their `kind`, which names
    their pixel budget. A query becomes a row of `qid`, `question`, `answer`, `image` (a list), `is_video`, `fps` and
    `attributes`. The paths of exported media are relative to the folder of the table.

    Returns:
      The number of rows.

    Raises:
      RecordError: a record cannot be read.
      UserError: the table cannot be written; see `table_writer`.
    """
    source, out = RecordSource(dataset), as_path(out)
    media = _MediaFolder(out.parent, f"{out.stem}_media")
    row_of, schema = {"trajectory": (_trajectory, _trajectory_schema), "query": (_query, _query_schema)}[source.kind]
    with table_writer(out, schema) as add, Progress("exporting", len(source)) as progress:
        for number, record in enumerate(source, start=1):
            add(row_of(record, media))
            progress.update(number)
    return len(source)


class _MediaFolder:
    """A folder of media files that are named by a digest of their content."""

    def __init__(self, parent: Any, name: str):
        self._folder, self._name = parent / name, name
        self._there: set[str] = set()

    def __call__(self, source: bytes | str, suffix: str | None = None) -> str:
        """Stores the bytes of a file and returns its path from the table's folder; a path is returned as it is."""
        if not isinstance(source, bytes):
            return source
        name = digest(source) + (
            suffix or next((s for start, s in IMAGE_SIGNATURES.items() if source.startswith(start)), "")
        )
        if name not in self._there:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / name).write_bytes(source)
            self._there.add(name)
        return f"{self._name}/{name}"

    def video(self, source: Any) -> list[str]:
        """Stores a video and returns the paths of its frames, or of its one file, as a list."""
        return [self(frame) for frame in source] if isinstance(source, list) else [self(source, ".mp4")]


def _trajectory(draft: Draft, media: _MediaFolder) -> dict[str, Any]:
    put = {"image": media, "video": media.video}
    messages = [
        {
            "role": message["role"],
            "content": [
                {key: put[key](item[key]) if key in put and key in item else item.get(key) for key in ITEM_KEYS}
                | {key: item[key] for key in SIZE_KEYS if key in item}
                for item in message["content"]
            ],
        }
        for message in draft.messages
    ]
    return {
        "qid": draft.query_id,
        "question": draft.question,
        "answer": _list(draft.reference),
        "type": draft.kind,
        "message_list": messages,
        "operations": json.dumps([dataclasses.asdict(operation) for operation in draft.operations]),
        "attributes": json.dumps(draft.attributes),
    }


def _query(query: Mapping[str, Any], media: _MediaFolder) -> dict[str, Any]:
    video = query.get("video")
    known = ("id", "question", "answer", "images", "video", "fps")
    return {
        "qid": query["id"],
        "question": query["question"],
        "answer": _list(query.get("answer", [])),
        "image": [media(image) for image in query.get("images", ())] if video is None else media.video(video),
        "is_video": video is not None,
        "fps": query.get("fps"),
        "attributes": json.dumps({key: value for key, value in query.items() if key not in known}),
    }


def _list(answer: str | list[str]) -> list[str]:
    return [answer] if isinstance(answer, str) else answer


def _trajectory_schema(pa: Any) -> Any:
    text, texts = pa.string(), pa.list_(pa.string())
    types = dict.fromkeys(SIZE_KEYS, pa.int64()) | {"video": texts, "train": pa.bool_(), "fps": pa.float64()}
    item = pa.struct([(key, types.get(key, text)) for key in dict.fromkeys((*ITEM_KEYS, *SIZE_KEYS))])
    message = pa.struct([("role", text), ("content", pa.list_(item))])
    columns = {"answer": texts, "message_list": pa.list_(message)}
    names = ("qid", "question", "answer", "type", "message_list", "operations", "attributes")
    return pa.schema([(name, columns.get(name, text)) for name in names])


def _query_schema(pa: Any) -> Any:
    text, texts = pa.string(), pa.list_(pa.string())
    columns = {"answer": texts, "image": texts, "is_video": pa.bool_(), "fps": pa.float64()}
    names = ("qid", "question", "answer", "image", "is_video", "fps", "attributes")
    return pa.schema([(name, columns.get(name, text)) for name in names])
