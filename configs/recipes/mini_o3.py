"""Mini-o3 (arXiv 2509.07969; Mini-o3/Mini-o3): responses that meet a limit are not punished, so that thinking may grow.

r = accuracy, of an answer in `<answer>` tags. A response that meets the limit of turns, images or tokens gets no
gradient; its reward still counts in its group's mean and spread, as in the authors' code. Groups whose finished
responses are equal are left out, and more queries are asked. Six turns in training, twelve and more at test. Evidence:
read in the authors' code; that crops are always enlarged 4 times is our reading. Differences: answers are compared by
rules, theirs by a judge; how often they ask for more is not known, here up to 4 times.

Command: pixel-reasoner rl --config recipes/mini_o3
Data: images with questions and answers; a model tuned on long traces (without, 25.4 in place of 48.0 below).
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published (notes): VisualProbe-Hard 48.0, of which 44.4 against 35.8 with and
  without the mask in an ablation.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.formats import answers_in_tags
from pixel_reasoner_jax.rewards.terms import Responses


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/mini_o3",
            "processor.image": (4, 2551),  # 2 million pixels
            "operations.names": ("mini_o3_zoom",),
            "operations.syntax": "tags",
            "operations.guidelines": (
                "Think within <think></think> tags, and look closer at any image where it helps. Put your final answer"
                " within <answer></answer> tags."
            ),
            "rollout.samples": 16,
            "rollout.max_operations": 5,
            "train.batch_size": 512,
            "rewards.terms.correct.function": "recipes/mini_o3:right_in_tags",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "grpo.queries_per_episode": 256,
            "grpo.masks": ("over_turn", "over_long"),
            "grpo.sampling_rounds": 4,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.3,
            "replay.method": "none",
        },
    )


def right_in_tags(responses: Responses) -> np.ndarray:
    """1 for a right answer in its tags."""
    return responses.correct * responses.each(lambda one, query: answers_in_tags(one))
