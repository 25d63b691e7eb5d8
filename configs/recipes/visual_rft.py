"""Visual-RFT (arXiv 2503.01785; Liuziyu77/Visual-RFT): rewards of boxes with confidences, from few examples.

r = overlap + confidence + format where the data have boxes, else accuracy + format. The most confident box takes the
gold box that it overlaps with most, if IoU is above 0.5; overlap is the sum of these IoU by the larger number of boxes,
found or gold; confidence is the mean of what each box says of itself, its confidence where it has a gold box and 1 less
that where it has none. Repeated boxes count once. Evidence: read in the authors' code. A query without gold boxes, for
which none is to be found, is a reading of ours: 1 for none; so is the KL of 0.04.

Command: pixel-reasoner rl --config recipes/visual_rft
Data: images with questions and answers; where boxes are asked, `boxes` in pixels of the image, or none with
  `answer_type` "boxes".
Hardware: that of rl_qwen2_5_vl_7b, with rows of 4,096 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
21.9 points above the base on two-shot COCO, Qwen2-VL-2B.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.boxes import Found, distinct, gold_boxes, match, read_boxes, rescaled
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.formats import thinks_and_answers
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/visual_rft",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "operations.names": (),
            "operations.guidelines": (
                "Think within <think> </think> tags, then answer within <answer> </answer> tags. Give boxes as a list:"
                " [{'Position': [x1, y1, x2, y2], 'Confidence': number from 0 to 1}, ...], or 'No Objects'."
            ),
            "rollout.max_response_tokens": 1024,
            "rollout.max_length": 4096,
            "train.row_length": 4096,
            "rewards.terms.correct.function": "recipes/visual_rft:accuracy",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.confidence.function": "recipes/visual_rft:confidence",
            "rewards.terms.format.function": "recipes/visual_rft:form",
            "rewards.terms.overlap.function": "recipes/visual_rft:overlap",
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.04,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def form(responses: Responses) -> np.ndarray:
    """1 for a thought and an answer in tags."""
    return responses.each(lambda one, query: thinks_and_answers(one))


def accuracy(responses: Responses) -> np.ndarray:
    """1 for a right answer to a query without boxes."""
    return responses.correct * responses.each(lambda one, query: not _asks_boxes(query))


def overlap(responses: Responses) -> np.ndarray:
    """The sum of the IoU of matched boxes, by the larger number of boxes."""

    def value(one: Trajectory, query: Query) -> float:
        if not _asks_boxes(query):
            return 0.0
        found, gold = _boxes(one), gold_boxes(query)
        if not found and not gold:
            return float(extract_answer(one.response) is not None)
        return sum(match(found, gold)) / max(len(found), len(gold))

    return responses.each(value)


def confidence(responses: Responses) -> np.ndarray:
    """The mean of how sure each box is of what is the case; 0 without a box."""

    def value(one: Trajectory, query: Query) -> float:
        if not _asks_boxes(query):
            return 0.0
        found = _boxes(one)
        sure = [
            box.confidence if own else 1 - box.confidence
            for box, own in zip(found, match(found, gold_boxes(query)), strict=True)
        ]
        return sum(sure) / len(sure) if sure else 0.0

    return responses.each(value)


def _asks_boxes(query: Query) -> bool:
    return query.get("boxes") is not None or query.get("answer_type") == "boxes"


def _boxes(one: Trajectory) -> list[Found]:
    """Those of an answer, in pixels of the image."""
    return rescaled(distinct(read_boxes(extract_answer(one.response) or "")), one)
