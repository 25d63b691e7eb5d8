"""CodeV (RenlyH/CodeV, CVPR 2026), by tool-aware policy optimization: operations are paid for what they show.

r = accuracy + 0.5 times the mean worth of the operations. A judge sees the question and what an operation has shown,
never the thought: it is worth 1 where that has what the answer needs, else 0, and -0.5 where the call failed. Evidence:
notes on the paper; that the weight is below that of accuracy is the paper's, its value, and those of an operation, are
our reading. Differences: calls in `<code>` tags zoom and rotate, theirs are Python, which is not run here; uniform
groups are left out.

Command: OPENAI_BASE_URL=http://judge:8000/v1 PIXEL_REASONER_JUDGE=NAME pixel-reasoner rl --config recipes/codev
Data: images with questions and answers; a judge that sees images; a model tuned on such calls.
Hardware: that of rl_qwen2_5_vl_7b, and a server of the judge; not compiled by itself.
Time and result: never run at this size; theirs took 200 steps. Published: 84.8% on V*, and 1.3 to 2 times as many
  calls that show what they should.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.sightings import Sight, endpoint_sight, worth_of_operations
from pixel_reasoner_jax.rewards.terms import Responses

FAILED = -0.5


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/codev",
            "operations.names": ("zoom_image", "rotate_image"),
            "operations.syntax": "code",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.shown.function": "recipes/codev:worth",
            "rewards.terms.shown.weight": 0.5,
            "grpo.queries_per_episode": 256,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )


def worth(responses: Responses, judge: Sight | None = None) -> np.ndarray:
    """The mean worth of the operations of a response; the judge is the environment's unless given."""
    return worth_of_operations(responses, judge or endpoint_sight(), FAILED)
