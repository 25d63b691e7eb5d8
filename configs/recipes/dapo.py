"""DAPO (arXiv 2503.14476): four repairs of GRPO for long responses.

The upper clip is wider (0.2 below, 0.28 above); a loss is the mean over all tokens of an update; queries whose
responses are all right or all wrong are replaced by others (dynamic sampling, up to 10 rounds); and responses lose up
to 1 over the last 4,096 tokens before the limit. Evidence: the paper, and verl's form of it. Its reward is 1 or -1,
here 2 or 0, which is the same to advantages. Differences: lengths count the tokens of observations too; the authors
train on texts, here a model reasons with images and may call the reference's operations, for which nothing is paid.

Command: pixel-reasoner rl --config recipes/dapo
Data: images or videos with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b with rows of 24,576 tokens; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
50 points on AIME 2024, from Qwen2.5-32B, texts alone.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/dapo",
            "rollout.samples": 16,
            "rollout.max_response_tokens": 20_480,
            "rollout.max_length": 24_576,
            "train.row_length": 24_576,
            "train.batch_size": 512,
            "rewards.terms.correct.weight": 2.0,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.overlong.function": "overlong",
            "rewards.overlong_margin": 4096,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.28,
            "grpo.sampling_rounds": 10,
            "replay.method": "none",
        },
    )
