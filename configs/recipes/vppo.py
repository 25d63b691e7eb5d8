"""VPPO (arXiv 2510.09285; huaixuheqing/VPPO-RL): learn at the tokens that depend on the image.

A pass of the policy that sampled over images with half of their patches black tells how much each token depends on what
it lacks. Responses whose tokens do so more get larger advantages, and only the 40% of a response's tokens that do so
most are learned from; the mean stays that of all tokens. Surprise is penalized: the loss has 0.06 times the mean of
-log-probability. Evidence: read in the authors' code [C]. Difference: groups are left out where all rewards are equal,
theirs where the accuracy is not within 0.01 and 0.99, which is the same.

Command: pixel-reasoner rl --config recipes/vppo
Data: images with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: no figure in our notes.
"""

import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.training.losses import Tokens
from pixel_reasoner_jax.training.shaping import dependency, largest_in_sequences, relative_weights
from pixel_reasoner_jax.training.update_view import UpdateView

LEAST_WEIGHT, SHARE = 0.9, 0.4


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/vppo",
            "operations.names": (),
            "rollout.max_response_tokens": 2048,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.overlong_margin": 1024,
            "train.batch_size": 128,
            "train.epochs": 2,
            "passes.masked.context": "masked",
            "passes.masked.strength": 0.5,
            "passes.masked.policy": "old",
            "grpo.queries_per_episode": 384,
            "grpo.clip_high": 0.28,
            "grpo.advantage": "std",
            "grpo.sampling_rounds": 10,
            "grpo.shaping": ("recipes/vppo:at_dependent_tokens",),
            "auxiliary.terms.surprise.function": "recipes/vppo:surprise",
            "auxiliary.terms.surprise.coefficient": 0.06,
            "replay.method": "none",
        },
    )


def surprise(tokens: Tokens, settings: ConfigDict) -> Array:
    """-log-probability of each token."""
    return -tokens.logprobs


def at_dependent_tokens(view: UpdateView, settings: ConfigDict) -> np.ndarray:
    """The advantages, weighed by how much a response depends on the image, at the tokens that do so most."""
    of_tokens = dependency(view.logprobs("masked"), view["logprobs"])
    of_responses = view.sequence_means(of_tokens)
    weights = relative_weights(of_responses, view.gathered(of_responses), LEAST_WEIGHT)
    kept = largest_in_sequences(of_tokens, view.lengths, SHARE)
    view.figure("dependency", of_tokens)
    return view["advantages"] * np.repeat(weights, view.lengths) * kept


at_dependent_tokens.passes = ("masked",)
