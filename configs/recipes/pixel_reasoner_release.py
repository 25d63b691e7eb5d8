"""Pixel Reasoner as its authors released it (TIGER-AI-Lab/Pixel-Reasoner), where that differs from the paper.

The bonus of a response with a call is 0.25 max(H - RaPR, 0) / (c RaPR), c 2 for images and 1.5 for videos, and calls
that failed count; answers are compared more leniently; boxes and numbers of images are read as the release reads them;
turns after the first are sampled at temperature 0.9; responses are replayed without weights. Evidence: read in the
authors' code. This is rl_release_7b under the name of a method.

Command: pixel-reasoner rl --config recipes/pixel_reasoner_release
Data: images or videos with questions and answers, after instruction tuning (sft_qwen2_5_vl_7b).
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published with the paper's figures, see recipes/pixel_reasoner.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant("rl_release_7b", {"workdir": "runs/pixel_reasoner_release"})
