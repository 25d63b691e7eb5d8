"""VOGUE (arXiv 2510.01444): explore where noise on the image changes what the model would say.

Half of the responses see a noisy image. Their tokens get a bonus by how far the distributions with and without noise
are apart, and all tokens one by their entropy, each at most half of the advantage. Evidence: the abstract [A] and a
note [N] for the branches, noise and constants; the form of the bonus is a reconstruction [R]. Differences: the
divergence is estimated at the sampled token, (difference of log-probabilities)^2, theirs of the whole vocabulary; in
place of fewer noisy responses as training goes on, the noise fades.

    A_t <- A + min(1.0 u_t, |A| / 2) [noisy responses] + min(0.4 H_t, |A| / 2)

Command: pixel-reasoner rl --config recipes/vogue
Data: images with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: pass@1 +2.6% on mathematics, +3.7% on others [A].
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.training.shaping import capped_bonus
from pixel_reasoner_jax.training.update_view import UpdateView

DIVERGENCE, ENTROPY, PART = 1.0, 0.4, 2.0


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/vogue",
            "operations.names": (),
            "rollout.subgroups.plain.samples": 4,
            "rollout.subgroups.noisy.samples": 4,
            "rollout.subgroups.noisy.images": "noisy",
            "rollout.subgroups.noisy.strength": 0.4,
            "rollout.subgroups.noisy.clean": True,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "passes.noisy.context": "noisy",
            "passes.noisy.strength": 0.4,
            "grpo.advantage": "std",
            "grpo.shaping": ("recipes/vogue:with_bonus",),
            "replay.method": "none",
        },
    )


def with_bonus(view: UpdateView, settings: ConfigDict) -> np.ndarray:
    """The advantages with both bonuses."""
    advantages, is_noisy = view["advantages"], np.array([one.subgroup == "noisy" for one in view.sequences], bool)
    apart = np.square(view.logprobs("present") - view.logprobs("noisy"))
    bonus = capped_bonus(apart, advantages, DIVERGENCE, PART) * np.repeat(is_noisy, view.lengths)
    view.figure("divergence", apart)
    return advantages + bonus + capped_bonus(view.entropy("present"), advantages, ENTROPY, PART)


with_bonus.passes = ("present", "noisy")
