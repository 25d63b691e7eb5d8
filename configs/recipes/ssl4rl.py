"""SSL4RL (arXiv 2510.16416; PKU-ML/SSL4RL): tasks that images answer themselves as a reward, without annotations.

The reward is 1 for a right answer: by how much an image is turned, which quarter a crop is from, whether two crops are
of one image; of a jigsaw of four quarters, the share of those that are right. Evidence: read in the authors' code.
They found that tasks do not add up by mixing them, and that a larger model needs harder ones: choose by what you train.
Differences: the forms of the questions; right angles alone, and central squares in place of the largest crop within.

Command: python -m data_pipeline.image_tasks photos --out data/ssl4rl --tasks rotation, then
  pixel-reasoner rl --config recipes/ssl4rl
Data: any images.
Hardware: that of rl_qwen2_5_vl_7b, with rows of 4,096 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
above the base on MMBench and SEED-Bench, Qwen2.5-VL-3B and 7B.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/ssl4rl",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "data.path": "data/ssl4rl",
            "operations.names": (),
            "rollout.samples": 5,
            "rollout.max_response_tokens": 2048,
            "rollout.max_length": 4096,
            "train.row_length": 4096,
            "train.batch_size": 640,
            "rewards.terms.correct.function": "recipes/ssl4rl:task_score",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.01,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def task_score(responses: Responses) -> np.ndarray:
    """1 for a right answer; of an order, the share of the places that are right."""
    orders = responses.each(lambda one, query: query.get("answer_type") == "order")
    return np.where(orders > 0, responses.each(right_places), responses.correct)


def right_places(one: Trajectory, query: Query) -> float:
    """The share of digits that are in their place, of an answer with the digits of the reference."""
    answer, gold = (extract_answer(one.response) or "").strip(), str(query.get("answer") or "")
    if not gold or sorted(answer) != sorted(gold):
        return 0.0
    return sum(found == wanted for found, wanted in zip(answer, gold, strict=True)) / len(gold)
