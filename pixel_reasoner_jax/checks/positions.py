"""The rule of M-RoPE positions, written a second time and in another way than `processing.mrope_positions`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from pixel_reasoner_jax.processing import Geometry, Media


def positions_token_by_token(
    tokens: np.ndarray, media: Sequence[Media], placeholders: Collection[int], geometry: Geometry, rule: str
) -> np.ndarray:
    """The positions of a conversation, int32 [3, tokens]: time, row and column.

    A token of text comes one after the largest position so far. A medium begins there too; its tokens go through its
    frames, rows and columns, each axis counted from its beginning. By the rule "transformers", what comes after a
    medium counts its rows and columns alone, and not its time.

    Args:
      tokens: ids.
      media: those that the placeholders stand for, in order.
      placeholders: ids of tokens of images and videos.
      geometry: of the vision tower.
      rule: "released" or "transformers".

    Raises:
      ValueError: there are not as many placeholders as the media have tokens.
    """
    positions, largest, remaining = [], -1, iter(media)
    place = 0
    while place < len(tokens):
        if int(tokens[place]) not in placeholders:
            largest += 1
            positions.append((largest,) * 3)
            place += 1
            continue
        item = next(remaining, None)
        if item is None or any(int(token) not in placeholders for token in tokens[place : place + item.tokens]):
            raise ValueError("the placeholders are not those of the media")
        grid = item.grid[0], item.grid[1] // geometry.merge_size, item.grid[2] // geometry.merge_size
        pace = np.float32(1)
        if item.kind == "video":
            pace = np.float32(geometry.tokens_per_second) * np.float32(item.second_per_grid)
        cells = [(int(np.float32(time) * pace), row, column) for time, row, column in np.ndindex(grid)]
        start, counted = largest + 1, slice(1 if rule == "transformers" else 0, 3)
        positions += [tuple(start + axis for axis in cell) for cell in cells]
        largest = start + max(max(cell[counted]) for cell in cells)
        place += len(cells)
    if next(remaining, None) is not None:
        raise ValueError("the placeholders are not those of the media")
    return np.array(positions, np.int32).reshape(-1, 3).T
