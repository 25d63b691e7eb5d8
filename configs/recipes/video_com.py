"""Video-CoM (mbzuai-oryx/Video-CoM): every step of looking closer at a video is right or wrong, and counts.

r = accuracy + right steps / steps that can be checked. Segments are right that the data list, frames within one of the
data's ranges, and boxes with an IoU of 0.35 and more with the gold box of the frame that was shown last; a frame
without a gold box is not checked. Evidence: read in the authors' code. Differences: calls that fail are wrong steps;
answers are compared by rules; uniform groups are left out.

Command: pixel-reasoner rl --config recipes/video_com
Data: videos with questions and answers, and `segments` (numbers), `frame_ranges` (pairs) and `boxes` (`frame` and
  `xyxy` in pixels of the frame), numbered as the operations do; a model tuned on such traces (theirs: 18,000 and more).
Hardware: that of rl_qwen2_5_vl_7b, with a reference model; not compiled by itself.
Time and result: never run at this size. Published: 3.6% more on average.
"""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.boxes import gold_boxes, iou
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import OperationRecord, Trajectory

SEGMENT, FRAME, ZOOM = "FIND_SEGMENT", "FIND_FRAME", "SPATIAL_ZOOM"
OVERLAP = 0.35


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/video_com",
            "operations.names": ("video_com_segment", "video_com_frame", "video_com_zoom"),
            "operations.syntax": "assignment",
            "operations.guidelines": "Look closer where it helps, step by step. End with a line FINAL_ANSWER: ...",
            "train.freeze_vision": True,
            "rollout.max_response_tokens": 8_192,
            "rollout.max_images": 48,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.steps.function": "recipes/video_com:right_steps",
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.04,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def right_steps(responses: Responses) -> np.ndarray:
    """The share of right steps among those that can be checked; 0 where there is none."""
    return responses.each(_share)


def _share(one: Trajectory, query: Query) -> float:
    verdicts, frame = [], None
    for record in one.operations:
        verdicts.append(check_step(record, query, frame))
        if record.succeeded:  # a box of what was zoomed in on is none of a frame
            frame = record.frames[-1] if record.frames else None
    known = [verdict for verdict in verdicts if verdict is not None]
    return sum(known) / len(known) if known else 0.0


def check_step(record: OperationRecord, query: Query, frame: int | None) -> bool | None:
    """Whether a step is right; None if the data do not tell.

    Args:
      frame: the number of the frame that was shown last, None where that is no frame.
    """
    if not record.succeeded:
        return False
    if record.name == SEGMENT and (segments := _of(query, "segments")):
        [chosen] = record.arguments.values()  # under whatever alias
        return set(chosen) <= {one for one in segments if isinstance(one, int)}
    if record.name == FRAME and (ranges := [one for one in _of(query, "frame_ranges") if _is_pair(one)]):
        return all(any(first <= number <= last for first, last in ranges) for number in record.frames)
    if record.name == ZOOM and frame is not None:
        own = [box for box in _of(query, "boxes") if isinstance(box, Mapping) and box.get("frame") == frame]
        gold = gold_boxes({"boxes": own})
        return any(iou(record.boxes[0], one.box) >= OVERLAP for one in gold) if gold else None
    return None


def _of(query: Query, key: str) -> list:
    return list(given) if isinstance(given := query.get(key), list | tuple) else []


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, int) for one in value)
