"""Sizes and patches against transformers' own image processor."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as oracle_resize

from pixel_reasoner_jax.models.vision import normalized
from pixel_reasoner_jax.processing import Budgets, Geometry, MediaError, Video, smart_resize, vision_layout
from pixel_reasoner_jax.processing.media import normalization_table, process_image, process_video

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TABLE = normalization_table(MEAN, STD)
GEOMETRY = Geometry()
normalize = jax.jit(normalized)

sides = st.integers(1, 3000)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@given(sides, sides, st.integers(1, 64), st.integers(0, 4000))
@settings(max_examples=500, deadline=None)
def test_sizes_equal_transformers_and_keep_the_budget(width, height, least, more):
    most = least + more
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="200 times"):
            smart_resize((width, height), (least, most))
        return
    resized = smart_resize((width, height), (least, most))
    assert resized[0] % 28 == resized[1] % 28 == 0
    assert 1 <= resized[0] * resized[1] // 784 <= most
    theirs = oracle_resize(height, width, 28, least * 784, most * 784)[::-1]
    if theirs[0] * theirs[1] <= most * 784:
        assert resized == theirs


def test_a_budget_of_one_size_is_kept():
    for width in range(30, 400, 13):
        for height in range(30, 400, 17):
            columns, rows = np.array(smart_resize((width, height), (16, 16))) // 28
            assert columns * rows <= 16
    # As in transformers, a square whose scale is just below a whole number of tokens loses a row: leave some slack.
    assert smart_resize((300, 300), (16, 16)) == oracle_resize(300, 300, 28, 12544, 12544) == (84, 84)
    assert smart_resize((300, 300), (16, 20)) == (112, 112)


@pytest.mark.parametrize("size", [(28, 28), (30, 200), (517, 333), (112, 112), (640, 480), (29, 900), (1000, 57)])
@pytest.mark.parametrize("budget", [(4, 1000), (64, 100)])
def test_patches_equal_transformers(size, budget):
    image = noise(*size)
    limits = {"shortest_edge": budget[0] * 784, "longest_edge": budget[1] * 784}
    oracle = Qwen2VLImageProcessorPil(image_mean=MEAN, image_std=STD, size=limits)(image, return_tensors="np")
    media = process_image(image, smart_resize(size, budget), GEOMETRY, TABLE)
    assert [media.grid] == [tuple(grid) for grid in oracle["image_grid_thw"].tolist()]
    np.testing.assert_array_equal(media.patches, oracle["pixel_values"])
    assert media.patches.dtype == np.float32
    assert media.tokens * 4 == len(media.patches)


def test_other_geometries_equal_transformers():
    geometry = Geometry(patch_size=8, merge_size=3, temporal_patch_size=1, window_size=96)
    options = dict(patch_size=8, merge_size=3, temporal_patch_size=1, image_mean=MEAN, image_std=STD)
    limits = {"shortest_edge": 4 * 24**2, "longest_edge": 60 * 24**2}
    image = noise(211, 97)
    oracle = Qwen2VLImageProcessorPil(size=limits, **options)(image, return_tensors="np")
    media = process_image(image, smart_resize(image.size, (4, 60), 24), geometry, TABLE)
    np.testing.assert_array_equal(media.patches, oracle["pixel_values"])


@pytest.mark.parametrize("dtype, atol", [(jnp.float32, 5e-7), (jnp.bfloat16, 0)])
def test_levels_normalized_on_the_device_equal_transformers(dtype, atol):
    """Every level of every channel, of an image and of a video whose last frame has no partner."""
    levels = np.stack([np.tile(np.arange(256, dtype=np.uint8), 49).reshape(112, 112)] * 3, axis=-1)
    frames = [Image.fromarray(np.roll(levels, shift, axis=(0, 2))) for shift in range(3)]
    size = {"shortest_edge": 784, "longest_edge": 16 * 784}
    oracle = Qwen2VLImageProcessorPil(image_mean=MEAN, image_std=STD, size=size)
    stills = [oracle(frame, return_tensors="np")["pixel_values"].reshape(64, 3, 2, 196) for frame in frames]
    pair = np.stack([stills[0][:, :, 0], stills[1][:, :, 0]], axis=2)
    media = [
        process_video(frames, 1.0, (112, 112), GEOMETRY, TABLE),
        process_image(frames[0], (112, 112), GEOMETRY, TABLE),
    ]
    vision, places = vision_layout(media, GEOMETRY)
    assert vision["patches"].dtype == np.uint8
    normalized = np.asarray(normalize(vision["patches"], vision["scaling"]).astype(dtype)).reshape(-1, 4, 1176)
    for place, expected in zip(places, ([pair, stills[2]], [stills[0]]), strict=True):
        expected = np.asarray(jnp.asarray(np.concatenate(expected), dtype)).reshape(-1, 4, 1176)
        np.testing.assert_allclose(normalized[place].astype(np.float32), expected.astype(np.float32), atol=atol, rtol=0)


def test_a_video_of_one_repeated_frame_equals_its_image():
    image = noise(112, 84)
    still = process_image(image, (112, 84), GEOMETRY, TABLE).patches
    for count, grids in ((1, 1), (2, 1), (3, 2), (16, 8)):
        video = process_video([image] * count, 4.0, (112, 84), GEOMETRY, TABLE)
        assert video.grid == (grids, 6, 8)
        assert video.second_per_grid == 0.5
        np.testing.assert_array_equal(video.patches, np.tile(still, (grids, 1)))


def test_a_video_holds_each_frame_in_its_place():
    frames = [noise(84, 56, seed) for seed in range(5)]
    stills = [process_image(frame, (84, 56), GEOMETRY, TABLE).patches.reshape(24, 3, 2, 196) for frame in frames]
    patches = process_video(frames, 1.0, (84, 56), GEOMETRY, TABLE).patches.reshape(3, 24, 3, 2, 196)
    for number in range(6):  # the fifth frame fills the last pair
        np.testing.assert_array_equal(patches[number // 2, :, :, number % 2], stills[min(number, 4)][:, :, 0])


def test_budgets_are_by_kind(tiny):
    image = noise(2000, 1500)
    budgets = Budgets(image=(4, 100), crop=(4, 50), frame=(4, 20), video=(4, 10), video_frames=4)
    tiny = type(tiny)(tiny.tokenizer, tiny.config, tiny.preprocessor, budgets)
    for kind, most in (("image", 100), ("crop", 50), ("frame", 20)):
        media = tiny.image(image, kind)
        assert 0.7 * most < media.tokens <= most
        assert media.size == tiny.resized(image.size, kind)
    video = tiny.video([image] * 9, fps=3)
    assert video.grid[0] == 2
    assert video.tokens <= 2 * 10
    assert video.second_per_grid == pytest.approx(2 / (3 * 4 / 9))
    assert tiny.image(media) is media
    assert tiny.video(Video([image], (0.0,), 2.0)).grid[0] == 1


def test_impossible_budgets_and_shapes_are_errors(tiny):
    with pytest.raises(ValueError, match="budget of crop"):
        Budgets(crop=(5, 4))
    for budget in ("(4,", (4,), (4, 5.5), ("4", "5")):
        with pytest.raises(ValueError, match="budget of crop is .*two whole numbers"):
            Budgets(crop=budget)
    with pytest.raises(ValueError, match="video_frames"):
        Budgets(video_frames=0)
    with pytest.raises(ValueError, match="unknown kind of image 'thumbnail'"):
        tiny.image(noise(30, 30), "thumbnail")
    with pytest.raises(MediaError, match="2000x3 pixels.*200 times"):
        tiny.image(noise(2000, 3))


def test_pixels_stay_small():
    media = process_image(noise(560, 560), (560, 560), GEOMETRY, TABLE)
    assert media.pixels.nbytes * 8 == media.patches.nbytes
