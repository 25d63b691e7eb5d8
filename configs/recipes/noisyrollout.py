"""NoisyRollout (arXiv 2504.13055; John-AI-Lab/NoisyRollout): half of a group sees the image through noise.

Six clean and six noisy responses are one group, with one mean and deviation; updates see the clean image. The noise is
steps of forward diffusion, fewer as training goes on. Evidence: sub-groups, steps and their decay were read in the
authors' code [C], clean updates are from a note [N]; the diffusion's variances are ours [R].

    steps = 500 (1 - sigmoid(30 (update - 40) / updates)), of 60 updates

Command: pixel-reasoner rl --config recipes/noisyrollout
Data: images with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: no figure in our notes.
"""

import math

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from pixel_reasoner_jax.config import variant

STEPS = 1000  # of the whole diffusion
TURN = 40 / 60  # the progress at which half of the noise is gone
_VARIANCES = 1e-5 + (5e-3 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, STEPS)))
KEPT = np.cumprod(1 - _VARIANCES)  # share of the image's variance that is left after each step


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/noisyrollout",
            "operations.names": (),
            "rollout.samples": 12,
            "rollout.subgroups.plain.samples": 6,
            "rollout.subgroups.noisy.samples": 6,
            "rollout.subgroups.noisy.images": "recipes/noisyrollout:diffuse",
            "rollout.subgroups.noisy.strength": 500.0,
            "rollout.subgroups.noisy.clean": True,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "schedules": (("rollout.subgroups.noisy.strength", "recipes/noisyrollout:fading", 500.0, 30.0),),
            "train.freeze_vision": True,
            "grpo.advantage": "std",
            "replay.method": "none",
        },
    )


def fading(progress: float, first: float, steepness: float) -> float:
    """The steps of diffusion at a progress of the run, from 0 to 1."""
    return first / (1 + math.exp(steepness * (progress - TURN)))


def diffuse(image: Image.Image, steps: float, generator: np.random.Generator) -> Image.Image:
    """The image after so many of 1,000 steps: sqrt(kept) x + sqrt(1 - kept) noise, of levels x from -1 to 1."""
    kept = KEPT[min(int(steps), STEPS) - 1] if steps >= 1 else 1.0
    levels = np.asarray(image, np.float32) / 127.5 - 1
    noise = generator.standard_normal(levels.shape, np.float32)
    levels = np.sqrt(kept) * levels + np.sqrt(1 - kept) * noise
    return Image.fromarray(((levels + 1) * 127.5).clip(0, 255).round().astype(np.uint8))
