"""Boxes in pixels are of the images as the model is shown them; what the release and version 0.1.0 made of boxes."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixel_reasoner_jax.operations import MediaState, OperationError, default_registry
from pixel_reasoner_jax.processing import Budgets, PictureStore, smart_resize
from tests.operations.test_operations import crop, images, numbered, select, shade


def resized(size, kind):
    """The sizes that a model is shown with the default budgets."""
    return smart_resize(size, Budgets().of(kind))


@functools.cache
def large() -> Image.Image:
    """A photo of 4032x3024, which is shown as 1428x1064."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (3024, 4032, 3), np.uint8))


def shown_photo() -> MediaState:
    return MediaState.from_query(images=[large()], resized=resized)


# The photo is 4032 / 1428 = 48/17 times as wide and 3024 / 1064 = 54/19 times as high as it is shown.
@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([714, 532, 1071, 798], (2016, 1512, 3024, 2268)),
        ([0, 0, 1428, 1064], (0, 0, 4032, 3024)),
        ([17, 19, 34, 38], (48, 54, 96, 108)),
        ([17.0, 19.0, 34.0, 38.0], (48, 54, 96, 108)),
        ([1.5, 0.5, 35.5, 38.5], (4, 1, 100, 109)),  # 4.24, 1.42, 100.24, 109.42
        ([-100, 532, 714, 5000], (0, 1512, 2016, 3024)),
        ([2016, 1512, 3024, 2268], "too small: 0x0 pixels of 4032x3024"),  # that is the photo's own size
        ([700, 500, 709, 600], "too small: 26x284 pixels"),  # 1976.47 to 2001.88 across, 1421.05 to 1705.26 down
        ([0.5, 0.5, 1.0, 1.0], (2016, 1512, 4032, 3024)),
        ([0.5, 0.5, 0.75, 0.75], (2016, 1512, 3024, 2268)),
        ([0, 0, 1, 1], (0, 0, 4032, 3024)),
        ([0, 0, 100, 1], "too small: 282x3 pixels"),
    ],
)
def test_pixels_are_those_that_the_model_is_shown(box, expected):
    registry = default_registry(padding=0.0)
    if isinstance(expected, str):
        with pytest.raises(OperationError, match=expected):
            crop(box, state=shown_photo(), registry=registry)
        return
    result = crop(box, state=shown_photo(), registry=registry)
    assert result.boxes == (expected,)
    np.testing.assert_array_equal(np.asarray(result.images[0]), np.asarray(large().crop(expected)))


def test_padding_is_a_share_of_the_image_before_resizing():
    assert crop([714, 532, 1071, 798], state=shown_photo()).boxes == ((1613, 1210, 3427, 2570),)  # 403.2 and 302.4


def test_pixels_of_crops_and_frames_are_those_that_the_model_is_shown():
    registry, state = default_registry(padding=0.0), shown_photo()
    half = crop([0, 0, 714, 1064], state=state, registry=registry)
    assert half.boxes == ((0, 0, 2016, 3024),) and resized((2016, 3024), "crop") == (700, 1064)
    assert crop([350, 532, 700, 1064], 2, state, registry).boxes == ((1008, 1512, 2016, 3024),)
    assert crop([714, 532, 1071, 798], 1, state, registry).boxes == ((2016, 1512, 3024, 2268),)

    frames = [numbered(1920, 1080, number) for number in range(4)]
    state = MediaState.from_query(video_frames=frames, resized=resized)
    assert resized((1920, 1080), "video") == (588, 336) and resized((1920, 1080), "frame") == (728, 392)
    assert crop([294, 0, 588, 168], 3, state.fork(), registry).boxes == ((960, 0, 1920, 540),)
    select([2, 4], state, registry)
    cut = crop([364, 0, 728, 196], 2, state, registry)
    assert cut.boxes == ((960, 0, 1920, 540),) and shade(cut.images[0]) == 3
    assert resized((960, 540), "crop") == (952, 532)
    assert crop([0, 0, 476, 266], 3, state, registry).boxes == ((0, 0, 480, 270),)


shares = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=4, max_size=4)


@given(shares, st.tuples(st.integers(200, 5000), st.integers(200, 5000)), st.sampled_from([0.0, 0.1]))
@settings(max_examples=200, deadline=None)
def test_a_box_in_fractions_is_the_same_in_the_pixels_that_are_shown(shares, size, padding):
    (x1, x2), (y1, y2) = sorted(shares[::2]), sorted(shares[1::2])
    fractions = [x1, y1, x2, y2]
    shown = resized(size, "image")
    pixels = [share * side for share, side in zip(fractions, shown * 2, strict=True)]
    if all(share.is_integer() for share in fractions) or max(pixels) <= 1:
        return  # neither is what it says
    boxes = []
    for box in (fractions, pixels):
        state = MediaState.from_query(images=[Flat(size)], resized=resized)
        try:
            boxes.append(crop(box, state=state, registry=default_registry(padding)).boxes[0])
        except OperationError:
            boxes.append(None)
    if None in boxes:
        assert boxes[0] == boxes[1] or min(x2 - x1, y2 - y1) * min(size) < 31  # a pixel more or less may be too small
    else:
        assert np.abs(np.subtract(*boxes)).max() <= 1


class Flat:
    """An image of which nothing but the size is asked."""

    def __init__(self, size):
        self.size = size

    def crop(self, box):
        return Flat((box[2] - box[0], box[3] - box[1]))


def test_the_rule_of_version_0_1_0():
    """Models that learnt it keep it: fractions below 1, else pixels before resizing, and the text that says so."""
    registry = default_registry(padding=0.0, box_rule="raw")
    assert crop([714, 532, 1071, 798], state=shown_photo(), registry=registry).boxes == ((714, 532, 1071, 798),)
    assert crop([0.5, 0.5, 0.75, 0.75], state=shown_photo(), registry=registry).boxes == ((2016, 1512, 3024, 2268),)
    assert crop([0, 0, 1, 1], state=shown_photo(), registry=default_registry(box_rule="raw")).boxes == (
        (0, 0, 404, 303),
    )
    released = default_registry(padding=0.0, release=True, box_rule="raw")
    again = crop([714, 532, 1071, 798], state=shown_photo(), registry=released)
    assert again.boxes == ((714, 532, 1071, 798),) and again.images[0].size == (357, 266)
    assert "all below 1, or else pixels." in json.dumps(registry.signatures(images()))
    with pytest.raises(ValueError, match="there is no box rule 'mine': it is one of 'shown', 'raw'"):
        default_registry(box_rule="mine")


def test_the_release_cuts_from_what_the_model_is_shown():
    """Fractions below 1, else pixels of the resized image; a crop of a crop is cut from that as it was shown."""
    registry = default_registry(padding=0.0, release=True)
    shown = large().resize((1428, 1064), Image.Resampling.BICUBIC)
    for box, cut, full in (
        ([0.5, 0.5, 0.75, 0.75], (714, 532, 1071, 798), (2016, 1512, 3024, 2268)),
        ([714, 532, 1071, 798], (714, 532, 1071, 798), (2016, 1512, 3024, 2268)),
        ([0, 0.1, 100, 50], (0, 0, 100, 50), (0, 0, 282, 142)),
    ):
        result = crop(box, state=shown_photo(), registry=registry)
        assert result.boxes == (full,)
        np.testing.assert_array_equal(np.asarray(result.images[0]), np.asarray(shown.crop(cut)))
    for box in ([0, 0, 1, 1], [0.5, 0.5, 1.0, 1.0]):  # pixels
        with pytest.raises(OperationError, match="too small: 1x1 pixels of 1428x1064"):
            crop(box, state=shown_photo(), registry=registry)
        assert crop(box, state=shown_photo(), registry=default_registry(release=True)).images[0].size == (144, 107)


def test_crops_of_crops_of_the_release():
    store, registry = PictureStore(), default_registry(padding=0.0, release=True)
    state = MediaState.from_query(images=[store.open(large())], resized=resized)
    first = crop([0.25, 0.5, 0.5, 0.75], 1, state, registry)  # 357x266, which is shown as 364x280
    assert first.boxes == ((1008, 1512, 2016, 2268),) and first.images[0].size == (357, 266)
    assert resized((357, 266), "crop") == (364, 280)
    second = crop([182, 140, 364, 280], 2, state, registry)
    assert second.boxes == ((504, 378, 1008, 756),)  # of the first crop, in the photo's pixels
    seen = large().resize((1428, 1064), Image.Resampling.BICUBIC).crop((357, 532, 714, 798))
    seen = seen.resize((364, 280), Image.Resampling.BICUBIC).crop((182, 140, 364, 280))
    np.testing.assert_array_equal(np.asarray(second.images[0].load()), np.asarray(seen))
