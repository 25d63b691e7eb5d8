"""VLM-R1 (arXiv 2504.07615; om-ai-lab/VLM-R1): rewards of referring and of detection.

Referring: r = IoU + format, with the box in pixels of the image as the model was shown it. Detection (queries whose
`answer_type` is "boxes"): r = mAP * min(1, gold boxes / boxes found) + format, so that many boxes do not pay; 1 where
none is to be found and none is, 0 where one side alone has boxes. Evidence: read in the authors' code. Differences:
mAP is COCO's, of one image, with all boxes equally confident.

Command: pixel-reasoner rl --config recipes/vlm_r1
Data: images with questions and answers, and `boxes` in pixels of the image: [x1, y1, x2, y2], or {"bbox_2d": [...],
  "label": "..."} for detection.
Hardware: that of rl_qwen2_5_vl_7b, with rows of 6,144 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
63.2 on LISA grounding, 54.8 from instruction tuning, Qwen2.5-VL-3B.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.boxes import gold_boxes, iou, mean_average_precision, read_box, read_boxes, rescaled
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.formats import thinks_and_answers
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

DETECTION = "boxes"  # the `answer_type`


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/vlm_r1",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "operations.names": (),
            "operations.guidelines": (
                "First output the thinking process in <think> </think> tags and then output the final answer in"
                ' <answer> </answer> tags, as JSON: {"bbox_2d": [x1, y1, x2, y2], "label": "..."}, or a list of these.'
            ),
            "rollout.max_response_tokens": 2048,
            "rollout.max_length": 6144,
            "train.row_length": 6144,
            "rewards.terms.correct.function": "recipes/vlm_r1:fit",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/vlm_r1:form",
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.04,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def form(responses: Responses) -> np.ndarray:
    """1 for a thought and an answer in tags, which for referring has a box."""

    def value(one: Trajectory, query: Query) -> bool:
        answer = extract_answer(one.response) or ""
        return thinks_and_answers(one) and (query.get("answer_type") == DETECTION or read_box(answer) is not None)

    return responses.each(value)


def fit(responses: Responses) -> np.ndarray:
    """How well the boxes of an answer fit those of the data, from 0 to 1."""

    def value(one: Trajectory, query: Query) -> float:
        answer, gold = extract_answer(one.response), gold_boxes(query)
        found = rescaled(read_boxes(answer or ""), one)
        if query.get("answer_type") != DETECTION:
            return iou(found[0].box, gold[0].box) if found and gold else 0.0
        if not found or not gold:
            return float(not found and not gold and answer is not None)
        return mean_average_precision(found, gold) * min(1.0, len(gold) / len(found))

    return responses.each(value)
