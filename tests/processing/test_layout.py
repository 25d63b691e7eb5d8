"""The window layout against transformers' window index and attention boundaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from pixel_reasoner_jax.processing import Geometry, Media, grid_patches, vision_layout

GEOMETRY = Geometry()

# (temporal, rows, columns) in tokens
grids = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11)).map(lambda g: (g[0], 2 * g[1], 2 * g[2])),
    min_size=1,
    max_size=5,
)


def numbered(grid: tuple[int, int, int], first: int = 0) -> Media:
    """Media whose every patch holds, in its first four values, its own number in base 256."""
    count = int(np.prod(grid))
    pixels = np.zeros((count, 3, 1, 196), np.uint8)
    pixels[:, 0, 0, :4] = (np.arange(first, first + count)[:, None] >> np.array([0, 8, 16, 24])) & 255
    kind = "video" if grid[0] > 1 else "image"
    table = np.tile(np.arange(256, dtype=np.float32), (3, 1))
    return Media(kind, pixels, grid, (grid[2] * 14, grid[1] * 14), table)


def numbers(patches: np.ndarray) -> np.ndarray:
    return (patches[..., :4].astype(np.int64) << np.array([0, 8, 16, 24])).sum(-1)


def many(grids: list[tuple[int, int, int]]) -> list[Media]:
    firsts = np.cumsum([1] + [int(np.prod(grid)) for grid in grids])
    return [numbered(grid, int(first)) for grid, first in zip(grids, firsts, strict=False)]


def windows_of(vision: dict[str, np.ndarray], geometry: Geometry = GEOMETRY) -> list[tuple[int, ...]]:
    """The numbers, from 0, of the patches of every window; a window is a run, and lies within a block."""
    found = []
    place = vision["patch_positions"] // (geometry.window_tokens * geometry.merge_size)
    place = np.concatenate([vision["patch_segments"][..., None], place], axis=-1)
    shape = (-1, geometry.window_patches)
    for ids, where in zip(numbers(vision["patches"]).reshape(shape), place.reshape(*shape, 3), strict=True):
        ends = np.flatnonzero((where[1:] != where[:-1]).any(-1)) + 1
        found += [tuple(run - 1) for run in np.split(ids, ends) if run.any()]
    return found


@given(grids, st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_layout_equals_transformers(grids, scale):
    media = many(grids)
    row_patches = max(grid_patches(item.grid, GEOMETRY) for item in media) * scale
    vision, places = vision_layout(media, GEOMETRY, row_patches)
    patches, segments = vision["patches"], vision["patch_segments"]
    assert patches.shape[1] == row_patches

    # Every token is where its place says, with all four patches of its group in order.
    flat = numbers(patches).reshape(-1, 4)
    sequence = np.concatenate([flat[place] for place in places])
    np.testing.assert_array_equal(sequence.reshape(-1), 1 + np.arange(sequence.size))
    assert (flat > 0).sum() == (segments > 0).sum() == sequence.size
    assert len(np.unique(np.concatenate(places))) == sum(map(len, places))

    # The order within windows, and which patches share one.
    grid = torch.tensor(grids)
    order, boundaries = get_vision_window_index(grid, 2, 112, 14)
    theirs = np.split((order[:, None] * 4 + torch.arange(4)).reshape(-1).numpy(), boundaries[1:-1].tolist())
    assert sorted(windows_of(vision)) == sorted(map(tuple, theirs))
    for block in numbers(patches).reshape(-1, 64):  # padding comes last
        assert (block[(block > 0).sum() :] == 0).all()

    # Which patches see each other in full attention: those of one frame.
    frames = get_vision_cu_seqlens(grid).numpy()
    frame_of = np.searchsorted(frames, np.arange(sequence.size), side="right")
    for row in range(len(patches)):
        real = segments[row] > 0
        ids = numbers(patches[row])[real] - 1
        pairs = np.unique(np.stack([segments[row][real], frame_of[ids]]), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]

    # The coordinates for 2D rotary embedding.
    coordinates = vision["patch_positions"].reshape(-1, 4, 2)
    ours = np.concatenate([coordinates[place] for place in places]).reshape(-1, 2)
    np.testing.assert_array_equal(ours, get_vision_position_ids(grid, 2).numpy())


@given(grids)
@settings(max_examples=50, deadline=None)
def test_a_block_never_mixes_frames_and_media_stay_in_a_row(grids):
    vision, places = vision_layout(many(grids), GEOMETRY, rows=len(grids) + 1)
    for block in vision["patch_segments"].reshape(-1, 64):
        assert len(set(block[block > 0].tolist())) <= 1
    tokens_a_row = vision["patches"].shape[1] // 4
    assert all(len(np.unique(place // tokens_a_row)) == 1 for place in places)
    assert len(vision["patches"]) == len(grids) + 1


def test_other_windows():
    geometry = Geometry(patch_size=14, window_size=56)
    media = many([(1, 6, 10), (2, 4, 4)])
    vision, places = vision_layout(media, geometry)
    order, boundaries = get_vision_window_index(torch.tensor([item.grid for item in media]), 2, 56, 14)
    theirs = np.split((order[:, None] * 4 + torch.arange(4)).reshape(-1).numpy(), boundaries[1:-1].tolist())
    assert sorted(windows_of(vision, geometry)) == sorted(map(tuple, theirs))


def test_small_windows_share_blocks():
    """18 x 28 patches: 6 full windows, 2 and 3 at the borders and a corner, 504 patches in 8 blocks, not 12."""
    assert grid_patches((1, 18, 28), GEOMETRY) == 8 * 64
    assert grid_patches((1, 8, 14), GEOMETRY) == 2 * 64  # a full one, and one of 48
    assert grid_patches((3, 2, 400), GEOMETRY) == 3 * 13 * 64  # 50 of 16 patches in every frame
    vision, _ = vision_layout(many([(1, 18, 28)]), GEOMETRY)
    assert (vision["patch_segments"] > 0).sum() == 504 and vision["patches"].shape == (1, 512, 1176)


def test_media_given_twice_is_placed_once():
    one, other = many([(1, 8, 8), (1, 8, 8)])
    vision, places = vision_layout([one, other, one], GEOMETRY)
    assert vision["patches"].shape == (2, 64, 1176)
    np.testing.assert_array_equal(places[0], places[2])
    assert not set(places[0].tolist()) & set(places[1].tolist())


def test_largest_first_fills_rows():
    media = many([(1, 8, 8), (1, 8, 24), (1, 8, 8), (1, 8, 16)])  # 1, 3, 1 and 2 windows
    vision, _ = vision_layout(media, GEOMETRY, row_patches=4 * 64)
    assert len(vision["patches"]) == 2
    with pytest.raises(ValueError, match="need 3 rows of 3 blocks, not 2"):
        vision_layout([*media, *many([(1, 8, 8)])], GEOMETRY, row_patches=3 * 64, rows=2)


def test_sizes_asked_for_and_nothing_to_show():
    assert vision_layout([], GEOMETRY) == (None, [])
    vision, places = vision_layout([], GEOMETRY, row_patches=128, rows=2)
    assert vision["patches"].shape == (2, 128, 1176)
    assert not vision["patch_segments"].any()
    assert places == []
    with pytest.raises(ValueError, match="multiple of a window's 64"):
        vision_layout(many([(1, 2, 2)]), GEOMETRY, row_patches=100)
    with pytest.raises(ValueError, match="needs 4 blocks of patches; a row has 2"):
        vision_layout(many([(1, 16, 16)]), GEOMETRY, row_patches=128)
    with pytest.raises(ValueError, match="window_size 100"):
        Geometry(window_size=100)
