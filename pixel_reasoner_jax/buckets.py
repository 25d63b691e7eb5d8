"""Sizes that compiled programs are allowed to have: few, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixel_reasoner_jax.processing import Geometry, Media, media_patches, vision_layout


def bucket(size: int, unit: int = 1) -> int:
    """The smallest of unit * (1, 2, 3, 4, 6, 8, 12, 16, 24, ...) that holds `size`; padding is a third at most."""
    if size < 0 or unit < 1:
        raise ValueError(f"bucket needs size >= 0 and unit >= 1, got size {size}, unit {unit}")
    blocks = max(1, -(-size // unit))
    power = 1 << (blocks - 1).bit_length()
    three_quarters = power * 3 // 4
    return unit * (three_quarters if power >= 4 and three_quarters >= blocks else power)


def bucketed_vision(
    media: Sequence[Media], geometry: Geometry, tokens: int, shapes: int
) -> tuple[dict[str, np.ndarray] | None, list[np.ndarray]]:
    """`vision_layout` with the length of its rows, and their number, padded to buckets; None without media.

    Args:
      media, geometry: see `vision_layout`.
      tokens: the most visual tokens that `media` may have in such a batch.
      shapes: numbers of rows come in so many steps up to what `tokens` need.
    """
    if not media:
        return None, []
    row_patches = bucket(max(media_patches(item, geometry) for item in media), geometry.window_patches)
    vision, places = vision_layout(media, geometry, row_patches)
    rows = len(vision["patches"])
    step = -(-tokens * geometry.merge_size**2 // (row_patches * shapes))
    padding = -rows % step
    padded = {name: np.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1)) for name, leaf in vision.items()}
    return padded, places
