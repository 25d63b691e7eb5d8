"""Dr. GRPO (arXiv 2503.20783): GRPO without its two biases.

An advantage is the reward less the group's mean, not divided by the standard deviation, which favours queries that are
nearly always or nearly never answered; and a response's loss is its sum over tokens by a constant length, not by its
own, which lets wrong responses grow. No KL. Evidence: the paper, and the forms of verl and TRL. Differences: the
authors train on texts; here a model reasons with images and may call the reference's operations, for which nothing is
paid. The constant is rollout.max_response_tokens.

Command: pixel-reasoner rl --config recipes/dr_grpo
Data: images or videos with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
43.3% on AIME 2024, from Qwen2.5-Math-7B, texts alone.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/dr_grpo",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "grpo.advantage": "centred",
            "grpo.aggregation": "constant_length",
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )
