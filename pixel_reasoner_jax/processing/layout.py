"""The vision tower's input: patches in window order, placed on the host so that the device needs no gather.

A row consists of blocks as large as a full attention window (64 patches in Qwen2.5-VL: 112 pixels a side). No window
spans several blocks; several smaller windows, from a frame's borders, share one, so that little is padding. Within a
block, patches stay in merge groups of 4. So window attention is dense over blocks, full attention stays within a row
(an image never spans rows), and the merger turns [rows, patches] into [rows, patches / 4].
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from pixel_reasoner_jax.processing.geometry import Geometry
from pixel_reasoner_jax.processing.media import Media


def vision_layout(
    media: Sequence[Media], geometry: Geometry, row_patches: int | None = None, rows: int | None = None
) -> tuple[dict[str, np.ndarray] | None, list[np.ndarray]]:
    """Packs images and videos into rows, largest first, each into the first row with room.

    The same `Media` object given several times (the query image of a group's samples) is placed once.

    Args:
      media: in any order.
      geometry: the vision tower's sizes.
      row_patches: P, patches in a row, a multiple of a window's patches; None: as many as the largest of `media` needs.
      rows: R, number of rows; None: as many as are needed.

    Returns:
      (vision, merged_tokens).
      vision: the dict of `patches` uint8 [R, P, values], 8-bit levels; `scaling` float32 [R, 2, channels] (what is
        subtracted from the levels of a row, and what the difference is multiplied with); `patch_positions` int32
        [R, P, 2] (row and column of the patch in its frame); and `patch_segments` int32 [R, P] (one number for each
        frame in a row, 0 for padding). None if there are no media and no size is given.
      merged_tokens: for each of `media`, int32 [its tokens]: the indices of its tokens in the flattened [R * P/4]
        merged tokens.

    Raises:
      ValueError: the media do not fit into the given sizes.
    """
    block = geometry.window_patches
    distinct = list({id(item): item for item in media}.values())
    needs = [grid_patches(item.grid, geometry) // block for item in distinct]
    if row_patches is None:
        row_patches = block * max(needs, default=1)
        if not media and rows is None:
            return None, []
    if row_patches % block:
        raise ValueError(f"row_patches is {row_patches}; it must be a multiple of a window's {block} patches")
    assigned, used = _first_fit(needs, row_patches // block, rows)
    if rows is None:
        rows = max(1, len(used))

    vision = {name: np.zeros(*form) for name, form in vision_forms(rows, row_patches, geometry).items()}
    merged = geometry.merge_size**2
    # Views in which the patches of a merge group are one row.
    patches, positions, segments = (
        vision[name].reshape(rows, row_patches // merged, merged, *rest)
        for name, *rest in (("patches", *_patch_shape(geometry)), ("patch_positions", 2), ("patch_segments",))
    )
    frames = [0] * rows
    merged_tokens = {}
    for item, (row, start) in zip(distinct, assigned, strict=True):
        offsets, blocks, coordinates = _frame_layout(item.grid[1:], geometry)
        count = item.grid[0]
        frame = np.arange(count, dtype=np.int32)[:, None]
        indices = ((start + frame * blocks) * (block // merged) + offsets).reshape(-1)
        pixels = item.pixels  # an image has one frame, which is repeated
        patches[row, indices] = pixels.reshape(len(indices), merged, *pixels.shape[1:])
        vision["scaling"][row] = item.scaling
        positions[row, indices] = np.tile(coordinates, (count, 1, 1)) if count > 1 else coordinates
        segments[row, indices] = np.repeat(frames[row] + 1 + frame, len(offsets), axis=0)
        frames[row] += count
        merged_tokens[id(item)] = indices + np.int32(row * (row_patches // merged))
    return vision, [merged_tokens[id(item)] for item in media]


def vision_forms(rows: int, row_patches: int, geometry: Geometry) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array of the vision tower's input; see `vision_layout`."""
    channels = _patch_shape(geometry)[0]
    return {
        "patches": ((rows, row_patches, geometry.patch_values), np.dtype(np.uint8)),
        "scaling": ((rows, 2, channels), np.dtype(np.float32)),
        "patch_positions": ((rows, row_patches, 2), np.dtype(np.int32)),
        "patch_segments": ((rows, row_patches), np.dtype(np.int32)),
    }


def layout_rows(media: Sequence[Media], geometry: Geometry, row_patches: int) -> int:
    """How many rows of `row_patches` patches `vision_layout` needs for media."""
    distinct = {id(item): item for item in media}.values()
    needs = [grid_patches(item.grid, geometry) // geometry.window_patches for item in distinct]
    return len(_first_fit(needs, row_patches // geometry.window_patches, None)[1])


def grid_patches(grid: tuple[int, int, int], geometry: Geometry) -> int:
    """Patches of a row that a grid (frames, rows and columns of patches) takes, with the padding in its last blocks."""
    return grid[0] * _frame_layout(grid[1:], geometry)[1] * geometry.window_patches


def _patch_shape(geometry: Geometry) -> tuple[int, int, int]:
    """(channels, frames, pixels) of a patch."""
    pixels = geometry.patch_size**2
    return geometry.patch_values // (geometry.temporal_patch_size * pixels), geometry.temporal_patch_size, pixels


def _first_fit(needs: list[int], capacity: int, rows: int | None) -> tuple[list[tuple[int, int]], list[int]]:
    """Packs items of these sizes into rows of `capacity`, largest first, each into the first row with room.

    Returns:
      (row, start in the row) of each item, and the sum of the sizes in each row.

    Raises:
      ValueError: an item is larger than a row, or more than `rows` rows are needed.
    """
    assigned: list[tuple[int, int]] = [(0, 0)] * len(needs)
    used: list[int] = []
    first = 0  # rows before it are full
    for index in sorted(range(len(needs)), key=lambda index: -needs[index]):
        need = needs[index]
        if need > capacity:
            raise ValueError(f"an image or video needs {need} blocks of patches; a row has {capacity}")
        while first < len(used) and used[first] == capacity:
            first += 1
        row = next((row for row in range(first, len(used)) if used[row] + need <= capacity), len(used))
        if row == len(used):
            used.append(0)
        assigned[index] = (row, used[row])
        used[row] += need
    if rows is not None and len(used) > rows:
        raise ValueError(f"{len(needs)} images and videos need {len(used)} rows of {capacity} blocks, not {rows}")
    return assigned, used


@functools.lru_cache(maxsize=4096)
def _frame_layout(grid: tuple[int, int], geometry: Geometry) -> tuple[np.ndarray, int, np.ndarray]:
    """The layout of one frame's tokens in blocks.

    Args:
      grid: (h, w) in patches.
      geometry: the vision tower's sizes.

    Returns:
      For each token, in raster order, its offset in the frame's blocks, int32 [tokens]; the number of blocks; and the
      (row, column) of every patch, int32 [tokens, merge*merge, 2].
    """
    merge, side = geometry.merge_size, geometry.window_tokens
    rows, columns = grid[0] // merge, grid[1] // merge
    row, column = np.divmod(np.arange(rows * columns, dtype=np.int32), columns)
    window = row // side * -(-columns // side) + column // side
    width = np.minimum(side, columns - column // side * side)  # a window at the right border is narrower
    assigned, used = _first_fit(np.bincount(window).tolist(), side**2, None)
    starts = np.array([block * side**2 + start for block, start in assigned], np.int32)
    offsets = starts[window] + row % side * width + column % side
    within = np.stack(np.divmod(np.arange(merge**2, dtype=np.int32), merge), axis=-1)
    coordinates = np.stack([row, column], axis=-1)[:, None] * merge + within
    return offsets.astype(np.int32), len(used), coordinates.astype(np.int32)
