"""ViSurf (arXiv 2510.10606): the data's response joins the group that the model's own are compared with.

The gold response's reward is its accuracy, or the mean of the others where one of them is as good, so that it teaches
only what the model cannot do. Its old log-probabilities are those of the policy that sampled the others, scored in one
more pass [R]. Evidence: a note on the paper [N]. Difference: the authors rewrite gold responses in the model's own
style, which the data should have done.

Command: pixel-reasoner rl --config recipes/visurf
Data: images with questions and answers, and `gold_response`: the text of a right response, with its final answer.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: above instruction tuning, RL, and one after the other [A].
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.training.advantages import EPSILON, GroupRewards


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/visurf",
            "operations.names": (),
            "rollout.samples": 9,
            "rollout.subgroups.sampled.samples": 8,
            "rollout.subgroups.gold.samples": 1,
            "rollout.subgroups.gold.response": "gold_response",
            "rollout.subgroups.gold.trains_given": True,
            "rollout.subgroups.gold.counted": False,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "grpo.advantage": "recipes/visurf:with_control",
            "grpo.aggregation": "sequence_mean",
            "replay.method": "none",
        },
    )


def with_control(rewards: GroupRewards) -> np.ndarray:
    """The rewards, that of the gold response under control, standardized in their group."""
    is_gold, total = rewards.labels == "gold", rewards.total.copy()
    sampled = total[:, ~is_gold]
    is_reached = sampled.max(axis=1, keepdims=True) >= total[:, is_gold]
    total[:, is_gold] = np.where(is_reached, sampled.mean(axis=1, keepdims=True), total[:, is_gold])
    centred = total - total.mean(axis=1, keepdims=True)
    return centred / (total.std(axis=1, ddof=1, keepdims=True) + EPSILON)
