"""Whether evidence can be seen in the whole view, so that an answer without any operation is honest."""

from __future__ import annotations

from data_pipeline.seed import Seed

LEGIBLE_SHARE = 0.02
"""The least share of the image of a cue that is seen without looking closer."""

LEGIBLE_HEIGHT = 14
"""The least height of text, in pixels of the image as the model sees it, that is read without looking closer."""


def is_legible(seed: Seed, seen: tuple[int, int]) -> bool:
    """Whether a seed's cue is large enough, or its text high enough, to be made out in the whole image.

    Args:
      seed: about images; of a video the model sees every frame whole, so that its evidence always is.
      seen: (width, height) in pixels of the first image after resizing to the model's budget.
    """
    if seed.video is not None:
        return True
    left, top, right, bottom = seed.cue
    if (right - left) * (bottom - top) >= LEGIBLE_SHARE - 1e-9:
        return True
    return seed.text_height is not None and seed.text_height * seen[1] >= LEGIBLE_HEIGHT - 1e-9
