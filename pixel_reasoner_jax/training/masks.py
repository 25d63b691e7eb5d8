"""Responses that are not trained on because they met a limit (over-turn masking of Mini-o3, arXiv 2509.07969).

Otherwise they would get a bad advantage, and long thinking with it. Their rewards still count in their groups' means.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pixel_reasoner_jax.config_values import RESPONSE_MASKS
from pixel_reasoner_jax.trajectory import Ended

MASKS: dict[str, tuple[Ended, ...]] = dict(
    zip(RESPONSE_MASKS, ((Ended.OPERATIONS, Ended.IMAGES), (Ended.TOKENS, Ended.LENGTH)), strict=True)
)
"""For each mask, the ends that it leaves out: "over_turn" by operations and images, "over_long" by tokens."""


def find_finished(ended: np.ndarray, masks: Iterable[str]) -> np.ndarray:
    """Which responses may be trained on, bool: those whose end (a text, `trajectory.Ended`) no mask leaves out."""
    left_out = [str(end) for mask in masks for end in MASKS[mask]]
    return ~np.isin(ended, left_out)
