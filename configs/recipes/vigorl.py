"""ViGoRL (arXiv 2505.23678; Gabesarch/grounded-rl), in its form of several turns: thoughts that point at places.

r = 0.6 accuracy + 0.4 F. F is 0 where the tags or a call's JSON are broken, else 1 + 0.2 for each point looked at
beyond the first, of points that are at least 10 pixels from one another; it has no cap but the number of turns.
Evidence: read in the authors' code. Differences: answers are compared by rules; uniform groups are left out; points
have to be looked at, by calls that succeed.

Command: pixel-reasoner rl --config recipes/vigorl
Data: images with questions and answers; a model tuned on traces that point (theirs: found by tree search).
Hardware: that of rl_qwen2_5_vl_7b, with a reference model; not compiled by itself.
Time and result: never run at this size; theirs took 500 steps. Published: 86.4% on V*.
"""

import math

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.formats import thinks_and_answers
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

APART = 10.0  # pixels of the image as shown, between two points


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/vigorl",
            "operations.names": ("vigorl_point",),
            "operations.guidelines": (
                "In every turn, think within <think></think> tags, and point at what you speak of as (x, y). Then look"
                " at a point, or put your final answer within <answer></answer> tags."
            ),
            "train.batch_size": 512,
            "train.freeze_vision": True,
            "optimizer.clip_norm": 0.2,
            "rollout.max_response_tokens": 5_120,
            "rollout.max_images": 5,
            "rewards.terms.correct.weight": 0.6,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/vigorl:grounded_format",
            "rewards.terms.format.weight": 0.4,
            "grpo.queries_per_episode": 128,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.01,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def grounded_format(responses: Responses) -> np.ndarray:
    """0 for a broken form, else 1 + 0.2 for each point beyond the first one."""
    return responses.each(lambda one, query: _is_formed(one) * (1 + 0.2 * max(distinct_points(one) - 1, 0)))


def _is_formed(one: Trajectory) -> bool:
    readable = all(record.name is not None for record in one.operations)
    return readable and thinks_and_answers(one, calls=("tool_call",))


def distinct_points(one: Trajectory) -> int:
    """How many points were looked at that are `APART` from all that were counted before them."""
    points: list = []
    for record in one.operations:
        point = (record.arguments or {}).get("coordinate") if record.succeeded else None
        if point is not None and all(math.dist(point, other) >= APART for other in points):
            points.append(point)
    return len(points)
