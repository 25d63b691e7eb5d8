"""AdaGRPO of AdaVaR (arXiv 2509.22746; Future-Living-Lab/mixture-of-visual-thoughts): a prefix chooses how to think.

Half of a query's responses begin with the words for thinking in text, half with those for looking. The words learn from
which half is better, all other tokens from their own response's advantage in the whole group:

    A of the looking words = Phi((mean of looking - mean of text) / sqrt(variance of both))
    A of the text words = 1 - that

Evidence: a note on the paper [N]; the words and the operation are ours [R]. Their curriculum is left out.

Command: pixel-reasoner rl --config recipes/adagrpo
Data: images with questions and answers. The authors tune on as many traces of either kind first.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: 55.8 on average over 8 sets at 7B [N].
"""

import math

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Source

LOOKING, TEXT = "I will look closer.", "I will think it through."


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/adagrpo",
            "rollout.subgroups.looking.samples": 4,
            "rollout.subgroups.looking.prefix": LOOKING,
            "rollout.subgroups.looking.trains_given": True,
            "rollout.subgroups.text.samples": 4,
            "rollout.subgroups.text.prefix": TEXT,
            "rollout.subgroups.text.trains_given": True,
            "rollout.subgroups.text.operations": False,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "grpo.advantage": "std",
            "grpo.credit": "recipes/adagrpo:credit_of_words",
        },
    )


def advantage_of_looking(looking: np.ndarray, text: np.ndarray) -> float:
    """Phi of the difference of the halves' mean rewards by its deviation; 0.5 where they are alike."""
    difference = looking.mean() - text.mean()
    deviation = math.sqrt(looking.var(ddof=1) + text.var(ddof=1))
    return (1 + math.erf(difference / max(deviation, 1e-6) / math.sqrt(2))) / 2


def credit_of_words(responses: Responses, advantages: np.ndarray) -> list[list[np.ndarray]]:
    """The words' advantage on the tokens that a response was given, and its own on all others."""
    is_looking, credit = responses.labels == "looking", []
    for rewards, own, group in zip(responses.rewards, advantages, responses.trajectories, strict=True):
        better = advantage_of_looking(rewards[is_looking], rewards[~is_looking])
        words = np.where(is_looking, better, 1 - better)
        credit.append(
            [
                np.where(one.source == Source.GIVEN, of_words, of_response)
                for one, of_words, of_response in zip(group, words, own, strict=True)
            ]
        )
    return credit
