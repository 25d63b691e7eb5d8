"""M-RoPE positions (Qwen2-VL, arXiv 2409.12191, section 2.1; absolute time as in Qwen2.5-VL, arXiv 2502.13923)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixel_reasoner_jax.config_values import POSITION_RULES
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.geometry import Geometry
from pixel_reasoner_jax.processing.media import Media


def mrope_positions(
    tokens: np.ndarray,
    media: Sequence[Media],
    placeholders: Sequence[int],
    geometry: Geometry,
    start: int = 0,
    rule: str = "released",
) -> tuple[np.ndarray, int]:
    """M-RoPE positions of a piece of a conversation.

    A text token advances all three axes (time, height, width) by 1. A token of an image or a video has its time, row
    and column, added to where the medium starts; the time axis of a video advances by `tokens_per_second` each second.
    What follows a medium starts, by the rule

    - "released", at the largest position so far plus 1, over all three axes. Qwen2.5-VL was trained so (transformers
      4.49 to 5.2, vLLM).
    - "transformers", at the medium's start plus the longer of its sides, as in transformers from 5.3 on. The time of a
      long video then exceeds the positions of the text after it. Where no video is longer in time than its sides, the
      rules agree.

    Args:
      tokens: int32 [n].
      media: the images and videos whose placeholders are in `tokens`, in order.
      placeholders: the ids of image and video placeholder tokens.
      geometry: the vision tower's sizes.
      start: the position at which the piece begins: 0, or the one returned for the piece before.
      rule: "released" or "transformers".

    Returns:
      The positions, int32 [3, n], and the position of the token that comes next.

    Raises:
      ValueError: the placeholders in `tokens` do not match `media`.
      UserError: there is no such rule.
    """
    check_rule(rule)
    tokens = np.asarray(tokens)
    spots = np.flatnonzero(np.isin(tokens, placeholders)) if len(tokens) else np.empty(0, np.int64)
    expected = sum(item.tokens for item in media)
    if len(spots) != expected:
        raise ValueError(f"{len(spots)} placeholder tokens for {len(media)} images and videos of {expected} tokens")
    positions = np.empty((3, len(tokens)), np.int32)
    filled = taken = 0
    for item in media:
        first, last = int(spots[taken]), int(spots[taken + item.tokens - 1])
        if last - first + 1 != item.tokens:
            raise ValueError(f"the {item.tokens} placeholder tokens of an {item.kind} at token {first} are interrupted")
        positions[:, filled:first] = np.arange(start, start + first - filled)
        start += first - filled
        t, rows, columns = item.grid[0], item.grid[1] // geometry.merge_size, item.grid[2] // geometry.merge_size
        cube = np.empty((3, t, rows, columns), np.int32)
        times = _times(item, geometry)
        cube[0] = times[:, None, None]
        cube[1] = np.arange(rows, dtype=np.int32)[:, None]
        cube[2] = np.arange(columns, dtype=np.int32)
        positions[:, first : last + 1] = cube.reshape(3, -1) + start
        start += max(rows, columns) if rule == "transformers" else max(rows, columns, int(times[-1]) + 1)
        filled, taken = last + 1, taken + item.tokens
    positions[:, filled:] = np.arange(start, start + len(tokens) - filled)
    return positions, start + len(tokens) - filled


def check_rule(rule: str) -> None:
    """Raises a `UserError` if there is no such rule of positions."""
    if rule not in POSITION_RULES:
        raise UserError(f"there is no position rule {rule!r}: it is one of {', '.join(map(repr, POSITION_RULES))}")


def _times(item: Media, geometry: Geometry) -> np.ndarray:
    """The time axis of a medium's frames, int32 [t]; computed in float32 and truncated, as transformers does."""
    interval = np.float32(1)
    if item.kind == "video":
        interval = np.float32(geometry.tokens_per_second) * np.float32(item.second_per_grid)
    return (np.arange(item.grid[0], dtype=np.float32) * interval).astype(np.int32)
