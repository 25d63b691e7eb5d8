"""GSPO (arXiv 2507.18071): ratios and clips of whole responses.

The ratio of every token is that of its response, exp(mean of log ratios), clipped at 3e-4 below and 4e-4 above, and
every response weighs the same. No KL. Evidence: the paper, and verl's form, the one with gradients by token.
Differences: the authors train on texts; here a model reasons with images and may call the reference's operations, for
which nothing is paid. Observations count in no ratio.

Command: pixel-reasoner rl --config recipes/gspo
Data: images or videos with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
curves alone, above GRPO's with Qwen3-30B-A3B.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/gspo",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "grpo.advantage": "std",
            "grpo.loss": "gspo",
            "grpo.aggregation": "sequence_mean",
            "grpo.clip_low": 3e-4,
            "grpo.clip_high": 4e-4,
            "replay.method": "none",
        },
    )
