"""Pixel Reasoner (arXiv 2505.15966; TIGER-AI-Lab/Pixel-Reasoner): curiosity pays for operations while they are rare.

r' = accuracy + alpha max(H - RaPR, 0) [an operation succeeded] + beta min(N - operations, 0), with RaPR the share of
a query's responses that use operations; alpha 0.5, beta 0.05, H 0.3, N 1. Evidence: the paper's equations. This is
rl_qwen2_5_vl_7b, the reference, under the name of a method; its docstring and docs/rl.md say more, and
recipes/pixel_reasoner_release has the released code's choices.

Command: pixel-reasoner rl --config recipes/pixel_reasoner
Data: images or videos with questions and answers, after instruction tuning (sft_qwen2_5_vl_7b).
Hardware: that of rl_qwen2_5_vl_7b.
Time and result: never run at this size. Published: 84.3% on V*, 73.8% on TallyQA-Complex, 84.0% on InfographicsVQA.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant("rl_qwen2_5_vl_7b", {"workdir": "runs/pixel_reasoner"})
