"""M-RoPE positions (Qwen2-VL, arXiv 2409.12191, section 2.1; absolute time as in Qwen2.5-VL, arXiv 2502.13923)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.geometry import Geometry
from pixel_reasoner_jax.processing.media import Media


def mrope_positions(
    tokens: np.ndarray, media: Sequence[Media], placeholders: Sequence[int], geometry: Geometry, start: int = 0
) -> tuple[np.ndarray, int]:
    """Positions of a piece of a conversation, equal to the `get_rope_index` of transformers 5.

    Text advances all three axes by one a token. An image's tokens hold the axes (time, height, width) of their place
    in it, and what follows goes on after the longer of its sides. The time axis of a video counts
    `tokens_per_second` a second; it may run past what follows (transformers 4 let the text go on after it).

    Args:
      tokens: int32 [n].
      media: the images and videos whose placeholders are in `tokens`, in order.
      placeholders: the ids of image and video placeholder tokens.
      geometry: the vision tower's sizes.
      start: where the piece begins: 0, or what the call for the piece before returned.

    Returns:
      (int32 [3, n], the position of the token that comes next).

    Raises:
      ValueError: the placeholders in `tokens` are not those of `media`.
    """
    tokens = np.asarray(tokens)
    spots = np.flatnonzero(np.isin(tokens, placeholders)) if len(tokens) else np.empty(0, np.int64)
    expected = sum(item.tokens for item in media)
    if len(spots) != expected:
        raise UserError(f"{len(spots)} placeholder tokens for {len(media)} images and videos of {expected} tokens")
    positions = np.empty((3, len(tokens)), np.int32)
    written = taken = 0
    for item in media:
        first, last = int(spots[taken]), int(spots[taken + item.tokens - 1])
        if last - first + 1 != item.tokens:
            raise UserError(f"the {item.tokens} placeholder tokens of an {item.kind} at token {first} are interrupted")
        positions[:, written:first] = np.arange(start, start + first - written)
        start += first - written
        t, rows, columns = item.grid[0], item.grid[1] // geometry.merge_size, item.grid[2] // geometry.merge_size
        cube = np.empty((3, t, rows, columns), np.int32)
        cube[0] = _times(item, geometry)[:, None, None]
        cube[1] = np.arange(rows, dtype=np.int32)[:, None]
        cube[2] = np.arange(columns, dtype=np.int32)
        positions[:, first : last + 1] = cube.reshape(3, -1) + start
        start += max(rows, columns)
        written, taken = last + 1, taken + item.tokens
    positions[:, written:] = np.arange(start, start + len(tokens) - written)
    return positions, start + len(tokens) - written


def _times(item: Media, geometry: Geometry) -> np.ndarray:
    """int32 [t], in float32 before truncation, as transformers computes it."""
    interval = np.float32(1)
    if item.kind == "video":
        interval = np.float32(geometry.tokens_per_second) * np.float32(item.second_per_grid)
    return (np.arange(item.grid[0], dtype=np.float32) * interval).astype(np.int32)
