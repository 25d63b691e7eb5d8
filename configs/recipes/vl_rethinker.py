"""VL-Rethinker (arXiv 2504.08837; TIGER-AI-Lab/VL-Rethinker): selective sample replay, and answers thought over again.

Some responses are told after their first answer to think again, and what they answer then counts; right responses are
learned from by their cross-entropy besides. Responses that say "wait" more than five times count as wrong. Evidence:
replay is the released one [C]. Forced rethinking is from a note [N]: how many responses are told so (2 of 8), and the
words, are ours [R]. Differences: the words come as a message of the user, not inside the response; cross-entropy is of
all right responses.

Command: pixel-reasoner rl --config recipes/vl_rethinker
Data: images with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
80.4% on MathVista at 72B.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.terms import Responses

MOST_WAITS = 5


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/vl_rethinker",
            "operations.names": (),
            "rollout.subgroups.once.samples": 6,
            "rollout.subgroups.again.samples": 2,
            "rollout.subgroups.again.follow_up": "Wait. Does each step hold? Check them, and answer again.",
            "rewards.terms.correct.gate": "patient",
            "rewards.terms.patient.function": "recipes/vl_rethinker:few_waits",
            "rewards.terms.patient.weight": 0.0,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "auxiliary.nll": 0.05,
            "replay.method": "release",
        },
    )


def few_waits(responses: Responses) -> np.ndarray:
    """1 for a response that says "wait" five times at most."""

    def waits(one, query) -> int:
        texts = [item.get("text", "") for m in one.messages if m["role"] == "assistant" for item in m["content"]]
        return sum(text.lower().count("wait") for text in texts)

    return (responses.each(waits) <= MOST_WAITS).astype(float)
