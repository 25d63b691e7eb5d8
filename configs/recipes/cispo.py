"""CISPO (MiniMax-M1, arXiv 2506.13585): the clip bounds a token's weight, and takes no token's gradient.

The loss is -sg(min(ratio, 1.2)) A logprob, with no lower bound, as the mean over all tokens of an update. Evidence:
the paper's form, and verl's, whose example has the upper bound 0.2; the authors did not publish theirs. No KL.
Differences: the authors train on texts; here a model reasons with images and may call the reference's operations, for
which nothing is paid.

Command: pixel-reasoner rl --config recipes/cispo
Data: images or videos with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
DAPO's accuracy in half of the steps, with Qwen2.5-32B, texts alone.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/cispo",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "grpo.advantage": "std",
            "grpo.loss": "cispo",
            "grpo.clip_low": 1.0,  # no ratio is below 0
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )
