"""Temporal-R1 (appletea233/Temporal-R1): when something happens in a video.

r = 0.5 tIoU + 0.5 format: the intersection over union of the interval that the answer names with the one of the data,
both in seconds (the authors divide both by the video's length, which changes nothing), and 1 for a thought and an
interval in tags. Evidence: read in the authors' code; the KL of 0.04 is a reading of ours.

Command: pixel-reasoner rl --config recipes/temporal_r1
Data: videos with questions such as "When does the boy jump?", answers, and `window`, [start, end] in seconds.
Hardware: that of rl_qwen2_5_vl_7b, with rows of 8,192 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published: in its repository alone, no paper known to us.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.boxes import gold_interval, read_interval, temporal_iou
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.formats import thinks_and_answers
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/temporal_r1",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "operations.names": (),
            "operations.guidelines": (
                "Output your thought process within the <think> </think> tags. Then give the start and the end in"
                " seconds within the <answer> </answer> tags, in the form: <answer>start to end</answer>."
            ),
            "rollout.max_response_tokens": 1024,
            "rollout.max_length": 8192,
            "train.row_length": 8192,
            "rewards.terms.correct.function": "recipes/temporal_r1:overlap",
            "rewards.terms.correct.weight": 0.5,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/temporal_r1:form",
            "rewards.terms.format.weight": 0.5,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.04,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def form(responses: Responses) -> np.ndarray:
    """1 for a thought and an answer in tags, if the answer is an interval."""
    return responses.each(lambda one, query: thinks_and_answers(one) and _interval(one) is not None)


def overlap(responses: Responses) -> np.ndarray:
    """tIoU of the answer's interval."""

    def value(one: Trajectory, query: Query) -> float:
        found, gold = _interval(one), gold_interval(query)
        return temporal_iou(found, gold) if found and gold else 0.0

    return responses.each(value)


def _interval(one: Trajectory) -> tuple[float, float] | None:
    return read_interval(extract_answer(one.response) or "")
