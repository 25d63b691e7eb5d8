"""Rollouts whose every turn has an operation."""

import numpy as np

from pixel_reasoner_jax.operations import Call, CropImage, Registry
from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings


class Zooming(Registry):
    """Reads a crop, of a place and size that depend on the text, into every turn."""

    def __init__(self, operations=None):
        super().__init__(operations or [CropImage(0.0)])

    def parse(self, text):
        rng = np.random.default_rng(sum(text.encode()))
        x, y, w, h = rng.uniform(0.0, 0.5, 2).tolist() + rng.uniform(0.2, 0.45, 2).tolist()
        return Call("crop_image_normalized", {"bbox_2d": [x, y, x + w, y + h], "target_image": 1})


TURNS = SamplingSettings(max_turn_tokens=6, later=SamplingSettings(0.9))


"""Turns of six tokens at most, so that every response has all of its operations."""


def zooming(world, **options):
    limits = Limits(max_operations=2, max_response_tokens=120, max_length=256)
    return Policy(*world, **{"registry": Zooming(), "limits": limits, "slots": 8, "decode_steps": 4, **options})


def assert_same(group, other, exactly=True):
    for a, b in zip(group, other, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        for name in ("logprobs", "policy_logprobs"):
            first, second = getattr(a, name), getattr(b, name)
            np.testing.assert_allclose(first, second, atol=0 if exactly else 1e-4, rtol=0)
