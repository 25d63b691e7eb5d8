"""DeepEyes (arXiv 2505.14362; Visual-Agent/DeepEyes): zooming is paid for where it helps, without a warm start.

r = 0.8 accuracy - 0.2 where the format is broken + 1.2 where an operation was used and the answer is right. Answers of
1,000 characters and more count as wrong and as a broken format: they talk judges over. Evidence: read in the authors'
code. Differences: answers are compared by rules, theirs by a judge (config.rewards.terms.correct takes a function of
your own); no group is left out there, here uniform ones are, which teach nothing.

Command: pixel-reasoner rl --config recipes/deepeyes
Data: images with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: 90.1% on V*, from Qwen2.5-VL-7B without instruction tuning.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

LONGEST_ANSWER = 1000  # characters


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/deepeyes",
            "operations.names": ("deepeyes_zoom", "deepeyes_rotate"),
            "rollout.samples": 16,
            "rollout.max_operations": 5,
            "rollout.max_response_tokens": 20_480,
            "rollout.max_length": 28_672,
            "train.row_length": 28_672,
            "rewards.terms.correct.function": "recipes/deepeyes:brief_and_right",
            "rewards.terms.correct.weight": 0.8,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/deepeyes:broken_format",
            "rewards.terms.format.weight": 0.2,
            "rewards.terms.used.function": "recipes/deepeyes:used_an_operation",
            "rewards.terms.used.weight": 1.2,
            "rewards.terms.used.gate": "correct",
            "grpo.queries_per_episode": 256,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )


def brief_and_right(responses: Responses) -> np.ndarray:
    """1 for a right answer that is short."""
    return responses.correct * responses.each(lambda one, query: not _is_long(one))


def broken_format(responses: Responses) -> np.ndarray:
    """-1 where the last turn has no answer, or a long one, or a call failed, else 0."""
    unanswered = responses.each(lambda one, query: extract_answer(one.response) is None or _is_long(one))
    return -np.maximum(unanswered, responses.failed > 0)


def used_an_operation(responses: Responses) -> np.ndarray:
    """1 where an operation has been executed."""
    return (responses.succeeded > 0).astype(float)


def _is_long(one: Trajectory) -> bool:
    return len(extract_answer(one.response) or "") >= LONGEST_ANSWER
