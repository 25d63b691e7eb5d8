"""Perception-R1 (arXiv 2506.07218; tongxiao2002/Perception-R1): a reward for what is rightly seen, not concluded alone.

r = 0.1 format + 0.9 accuracy + 0.5 facts + repetition. Facts is the share of atomic visual facts of the data, taken
from right answers of a strong model, that a text judge finds in the response; repetition is -1 times the share of runs
of 20 words that occurred before. Evidence: notes on the paper; that its results are stable with 0.1 to 0.9 for facts is
the paper's; the other two weights, and the length of a run, are readings of ours.

Command: OPENAI_BASE_URL=http://judge:8000/v1 PIXEL_REASONER_JUDGE=NAME pixel-reasoner rl --config recipes/perception_r1
Data: images with questions and answers, and `visual_facts`, a list of short statements about each image.
Hardware: that of rl_qwen2_5_vl_7b, with rows of 6,144 tokens, and a server of the judge; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
best of several on multimodal mathematics, with 1,442 samples.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.formats import thinks_and_answers
from pixel_reasoner_jax.rewards.statements import Judge, endpoint_judge, stated_share
from pixel_reasoner_jax.rewards.terms import Responses

RUN = 20  # words


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/perception_r1",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "operations.names": (),
            "operations.guidelines": (
                "First describe what you see and think step by step within <think> </think> tags, then give the final"
                " answer within <answer> </answer> tags."
            ),
            "rollout.max_response_tokens": 2048,
            "rollout.max_length": 6144,
            "train.row_length": 6144,
            "rewards.terms.correct.weight": 0.9,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.facts.function": "recipes/perception_r1:facts",
            "rewards.terms.facts.weight": 0.5,
            "rewards.terms.format.function": "recipes/perception_r1:form",
            "rewards.terms.format.weight": 0.1,
            "rewards.terms.repetition.function": "recipes/perception_r1:repetition",
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.01,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def form(responses: Responses) -> np.ndarray:
    """1 for a thought and an answer in tags."""
    return responses.each(lambda one, query: thinks_and_answers(one))


def facts(responses: Responses, judge: Judge | None = None) -> np.ndarray:
    """The share of the facts of the data that a response states; the judge is the environment's unless given."""
    return stated_share(responses, "visual_facts", judge or endpoint_judge())


def repetition(responses: Responses) -> np.ndarray:
    """-1 times the share of runs of words that occurred before."""
    return -responses.each(lambda one, query: repeated_share(one.response))


def repeated_share(text: str) -> float:
    """The share of a text's runs of `RUN` words that it had before; 0 where there is none."""
    words = text.lower().split()
    runs = [" ".join(words[start : start + RUN]) for start in range(len(words) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
