"""A trajectory as plain JSON: texts, operations, sizes and counts, without pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pixel_reasoner_jax.report.images import image_size
from pixel_reasoner_jax.report.lineage import video_frames
from pixel_reasoner_jax.trajectory import OperationRecord, Source, Trajectory


def trajectory_dict(trajectory: Trajectory, *, correct: float | None = None) -> dict[str, Any]:
    """A trajectory in types that `json.dumps(..., allow_nan=False)` takes.

    For an image, `size` is its (width, height) in pixels and `seen` that of the resized image that the model saw.
    Numbers that JSON lacks (a model may write `Infinity`) become strings. `correct` is the answer's score; None leaves
    it out.
    """
    media = iter(trajectory.media)
    out = {
        "query_id": trajectory.query_id,
        "sample": trajectory.sample,
        "question": trajectory.question,
        "reference": to_json_types(trajectory.reference),
        "response": trajectory.response,
        "ended": trajectory.ended.value if trajectory.ended is not None else None,
        "policy_version": trajectory.policy_version,
        "tokens": {
            "total": len(trajectory.tokens),
            **{source.name.lower(): int((trajectory.source == source).sum()) for source in Source},
            "sampled": trajectory.sampled,
        },
        "messages": [
            {"role": message["role"], "content": [_item(item, media) for item in message["content"]]}
            for message in trajectory.messages
        ],
        "operations": [_operation(record) for record in trajectory.operations],
    }
    return out if correct is None else {**out, "correct": float(correct)}


def to_json_types(value: Any) -> Any:
    """`value` in the types of JSON: non-finite numbers and unknown types become strings, tuples become lists."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): to_json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_types(item) for item in value]
    return str(value)


def finite(value: Any) -> float | None:
    """A number of JSON that can be drawn; None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def _item(item: dict[str, Any], media) -> dict[str, Any]:
    kind = item["type"]
    if kind == "text":
        return {"type": "text", "text": item["text"], **({"train": item["train"]} if "train" in item else {})}
    seen = image_size(next(media, None))
    out: dict[str, Any] = {"type": kind}
    if kind == "video":
        frames = video_frames(item["video"])
        out["frames"] = len(frames)
        size = image_size(frames[0]) if frames else None
    else:
        size = image_size(item["image"])
        if "kind" in item:
            out["kind"] = item["kind"]
    return {**out, "size": size and list(size), "seen": seen and list(seen)}


def _operation(record: OperationRecord) -> dict[str, Any]:
    return {
        "turn": record.turn,
        "name": record.name,
        "arguments": to_json_types(record.arguments),
        "succeeded": record.succeeded,
        "error": record.error,
        "boxes": [[to_json_types(n) for n in box] for box in record.boxes],
        "sizes": [list(size) for size in record.sizes],
    }
