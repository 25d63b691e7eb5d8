"""Changes of images under which a model is asked, or its responses are scored: noise, and squares that are black.

A change is a function of an image, a strength and a source of random numbers, which returns an image of the same size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from pixel_reasoner_jax import config_values

Alteration = Callable[[Image.Image, float, np.random.Generator], Image.Image]

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
    pixels = np.asarray(image, np.float32) / 255
    pixels += strength * generator.standard_normal(pixels.shape, np.float32)
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


ALTERATIONS: dict[str, Alteration] = dict(zip(config_values.ALTERATIONS, (masked, noisy), strict=True))
"""By the name in a sub-group's `images`, or module:function of one's own."""
