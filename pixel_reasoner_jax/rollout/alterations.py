"""Changes of images under which a model is asked, or its responses are scored: noise, and squares that are black.

A change is a function of an image, a strength and a source of random numbers, which returns an image of the same size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from pixel_reasoner_jax import config_values

Alteration = Callable[[Image.Image, float, np.random.Generator], Image.Image]

ROWS = 64  # of an image that are changed at once
SQUARE = 14  # pixels of the side of a square that is masked, as a patch of the vision tower


def masked(image: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """Squares of 14 x 14 pixels are black, each with the probability `strength` (VPPO, arXiv 2510.09285)."""
    pixels = np.array(image)
    rows, columns = (-(-side // SQUARE) for side in pixels.shape[:2])
    black = generator.random((rows, columns)) < strength
    pixels[np.kron(black, np.ones((SQUARE, SQUARE), bool))[: pixels.shape[0], : pixels.shape[1]]] = 0
    return Image.fromarray(pixels)


def noisy(image: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """Gaussian noise with the standard deviation `strength` is added to levels from 0 to 1."""
    return change_levels(image, lambda levels: levels + strength * generator.standard_normal(levels.shape, np.float32))


def change_levels(image: Image.Image, change: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """The image with other levels, made of some rows at a time: as numbers, all of a large image takes gigabytes.

    Args:
      image: to change.
      change: a function of the levels of some rows, float32 [rows, width, channels] from 0 to 1, which returns others,
        cut to that range. It is called from the first rows to the last.
    """
    pixels = np.array(image)
    for first in range(0, len(pixels), ROWS):
        rows = pixels[first : first + ROWS]
        rows[:] = (change(rows.astype(np.float32) / 255).clip(0, 1) * 255).round()
    return Image.fromarray(pixels)


ALTERATIONS: dict[str, Alteration] = dict(zip(config_values.ALTERATIONS, (masked, noisy), strict=True))
"""By the name in a sub-group's `images`, or module:function of one's own."""
