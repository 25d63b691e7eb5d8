"""Chain-of-Focus (arXiv 2505.15436; xtong-zhang/Chain-of-Focus): zooming learnt from answers alone, after a warm start.

r = 0.9 accuracy + 0.1 format; no operation is paid for. The format is right where `<think>` and `<answer>` tags are
balanced, and the answer has at most 1,000 words. Zooming is that of the authors: the box grows 1.5 times and is
enlarged. Evidence: read in the authors' code. Differences: answers are compared by rules; uniform groups are left out.

Command: pixel-reasoner rl --config recipes/chain_of_focus
Data: images with questions and answers; a model tuned on traces that zoom (theirs: 3,000 of MM-CoF).
Hardware: that of rl_qwen2_5_vl_7b, with a reference model and rows of 58,368 tokens; not compiled by itself.
Time and result: never run at this size. Published: 5 points more on V*, over resolutions from 224 to 4K.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.formats import contents, turns_of
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

MOST_WORDS = 1000  # of an answer


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/chain_of_focus",
            "operations.names": ("chain_of_focus_zoom",),
            "operations.guidelines": (
                "Think within <think></think> tags; zoom in where it helps. Put your final answer within"
                " <answer></answer> tags."
            ),
            "rollout.samples": 6,
            "rollout.max_operations": 3,
            "rollout.max_response_tokens": 32_756,
            "rollout.max_length": 58_368,
            "train.row_length": 58_368,
            "train.batch_size": 384,
            "rewards.terms.correct.weight": 0.9,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/chain_of_focus:balanced",
            "rewards.terms.format.weight": 0.1,
            "grpo.queries_per_episode": 64,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.001,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def balanced(responses: Responses) -> np.ndarray:
    """1 where the tags are balanced, there is one answer, and that is of at most 1,000 words."""
    return responses.each(lambda one, query: _is_balanced(one))


def _is_balanced(one: Trajectory) -> bool:
    text = "\n".join(turns_of(one))
    thoughts, answers = contents(text, "think"), contents(text, "answer")
    return bool(thoughts) and answers is not None and len(answers) == 1 and len(answers[0].split()) <= MOST_WORDS
