"""Buckets: the few declared sizes that arrays are padded to, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Sequence

from pixel_reasoner_jax.processing import Geometry, Media, grid_patches, layout_rows


def bucket(size: int, unit: int = 1) -> int:
    """The smallest of unit * (1, 2, 3, 4, 6, 8, 12, ...) that is at least `size`; a third of it is padding at most."""
    if size < 0 or unit < 1:
        raise ValueError(f"bucket needs size >= 0 and unit >= 1, got size {size}, unit {unit}")
    blocks = max(1, -(-size // unit))
    power = 1 << (blocks - 1).bit_length()
    three_quarters = power * 3 // 4
    return unit * (three_quarters if power >= 4 and three_quarters >= blocks else power)


def vision_row(media: Sequence[Media], geometry: Geometry) -> int:
    """The bucket, in patches, for rows of `vision_layout` that hold the largest of `media`; 0 if there are no media."""
    return bucket(max(grid_patches(item.grid, geometry) for item in media), geometry.window_patches) if media else 0


def vision_rows(media: Sequence[Media], geometry: Geometry, row_patches: int, tokens: int, shapes: int) -> int:
    """The bucket for the number of rows of `row_patches` patches that `vision_layout` needs; 0 if there are no media.

    Args:
      media, geometry, row_patches: see `vision_layout`.
      tokens: the most visual tokens that a batch of this kind may have.
      shapes: the result is at least 1/shapes of the rows that `tokens` fill, and at most all of these rows, unless
        `media` need more.
    """
    if not media:
        return 0
    rows = layout_rows(media, geometry, row_patches)
    most = -(-tokens * geometry.merge_size**2 // row_patches)
    enough = bucket(max(rows, -(-most // shapes)))
    return min(enough, most) if rows <= most else enough
