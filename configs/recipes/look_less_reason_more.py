"""Look Less, Reason More (arXiv 2510.01681): rollouts that must look, may not, and may tell when looking is needed.

Of 16 responses to a query four are told to use an operation, four not to, and eight are free. How much more often the
first are right than the second says whether the query needs an operation; a free response is rewarded for agreeing.
Each sub-group's advantages are its own. Evidence: the abstract [A] and a note on the paper [N] for the sub-groups,
their sizes and the kinds of reward; all constants, the words of the guidelines and the cases are a reconstruction [R].

    need = accuracy told to - accuracy told not to > 0.1
    told: accuracy + 0.5 obeyed;  free: accuracy + 0.5 (1 right and as needed, 0.3 right and not as needed, else 0)

Command: pixel-reasoner rl --config recipes/look_less_reason_more
Data: images with questions and answers. The authors tune on traces with and without operations first.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: 73.4% on HR-Bench 4K with operations in 20.1% of the responses [A].
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.rollout.prompt import OTHER_GUIDELINES as GUIDELINES

MARGIN = 0.1
AS_NEEDED, NOT_AS_NEEDED = 1.0, 0.3


def get_config() -> ConfigDict:
    subgroups = {
        "forced": dict(samples=4, guidelines=f"{GUIDELINES} You must zoom in before you answer.", counted=False),
        "forbidden": dict(
            samples=4, guidelines=f"{GUIDELINES} Do not zoom in: answer at once.", operations=False, counted=False
        ),
        "free": dict(samples=8),
    }
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/look_less_reason_more",
            "operations.names": ("zoom_image",),
            "rollout.samples": 16,
            **{
                f"rollout.subgroups.{label}.{key}": value
                for label, entry in subgroups.items()
                for key, value in {**entry, "compared": label}.items()
            },
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.obeyed.function": "recipes/look_less_reason_more:obeyed",
            "rewards.terms.obeyed.weight": 0.5,
            "rewards.terms.aligned.function": "recipes/look_less_reason_more:aligned",
            "rewards.terms.aligned.weight": 0.5,
            "grpo.advantage": "std",
        },
    )


def obeyed(responses: Responses) -> np.ndarray:
    """1 for a response that was told to use an operation, or not to, and did as it was told."""
    forced, forbidden = responses.labels == "forced", responses.labels == "forbidden"
    return np.where(responses.operations > 0, responses.succeeded * forced > 0, forbidden).astype(float)


def aligned(responses: Responses) -> np.ndarray:
    """Of free right responses, 1 for one that uses an operation just where its query needs that, and else 0.3."""
    told_to, told_not_to = (
        responses.correct[:, responses.labels == label].mean(axis=1, keepdims=True) for label in ("forced", "forbidden")
    )
    as_needed = (responses.succeeded > 0) == (told_to - told_not_to > MARGIN)
    value = np.where(as_needed, AS_NEEDED, NOT_AS_NEEDED) * (responses.correct > 0)
    return value * (responses.labels == "free")
