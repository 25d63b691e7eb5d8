"""Cropping and selecting frames: the rules, their edges, and a new operation."""

from __future__ import annotations

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixel_reasoner_jax.operations import (
    Call,
    CropImage,
    MediaState,
    Operation,
    OperationError,
    Registry,
    Result,
    default_registry,
)


@functools.cache
def numbered(width: int = 1000, height: int = 800, shade: int = 0) -> Image.Image:
    """An image whose pixels tell their place: red is x // 4, green y // 4, blue the shade."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x // 4, y // 4, np.full_like(x, shade)], -1).astype(np.uint8))


def images(count: int = 1) -> MediaState:
    return MediaState.from_query(images=[numbered(shade=10 * number) for number in range(1, count + 1)])


def video(count: int = 16) -> MediaState:
    return MediaState.from_query(video_frames=[numbered(320, 240, number) for number in range(1, count + 1)])


def crop(box, target=1, state=None, registry=None, name="crop_image_normalized") -> Result:
    state = images() if state is None else state
    registry = registry or default_registry()
    return registry.execute(Call(name, {"bbox_2d": box, "target_image": target}), state)


def select(frames, state, registry=None) -> Result:
    return (registry or default_registry()).execute(Call("select_frames", {"target_frames": frames}), state)


def shade(image: Image.Image) -> int:
    return image.getpixel((0, 0))[2]


# On an image of 1000x800 with the padding of 0.1: 100 pixels to the sides, 80 above and below.
@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0.2, 0.25, 0.5, 0.5], (100, 120, 600, 480)),
        ([0.0, 0.0, 0.999, 0.999], (0, 0, 1000, 800)),
        ([200, 200, 500, 400], (100, 120, 600, 480)),
        ([0, 0, 1000, 800], (0, 0, 1000, 800)),
        ([0.5, 0.5, 0.5001, 0.5001], (400, 320, 600, 480)),
        ([-0.3, -0.2, 0.1, 0.1], (0, 0, 200, 160)),
        ([-50, -60, 100, 100], (0, 0, 200, 180)),
        ([900, 700, 5000, 1e300], (800, 620, 1000, 800)),
        ([950, 700, 10**400 // 10**100, 10**19], (850, 620, 1000, 800)),
        ([0, 0, 1, 1], (0, 0, 1000, 800)),  # the whole image
        ([0.0, 0.0, 1.0, 1.0], (0, 0, 1000, 800)),
        ([0.5, 0.5, 1.0, 1.0], (400, 320, 1000, 800)),  # at most 1 and not all whole: fractions
        ([0.5, 0.5, 1, 1], (400, 320, 1000, 800)),
        ([0, 0, 0.5, 1], (0, 0, 600, 800)),
        ([0.2, 0.2, 1.0, 0.8], (100, 80, 1000, 720)),
        ([-0.5, 0, 1, 1], (0, 0, 1000, 800)),
        ([0, 0, 1, 2], (0, 0, 101, 82)),  # above 1, or all whole: pixels
        ([0, 0, 1.5, 0.9], (0, 0, 102, 81)),
        ([0.9, 0.9, 1.1, 1.1], (0, 0, 101, 81)),
        ([-1, 0, 1, 1], (0, 0, 101, 81)),
        ([-9, -9, -8, -7], (0, 0, 92, 73)),
        ([1050, 0, 1200, 100], (950, 0, 1000, 180)),  # beside the image, but the padding reaches into it
        ([-1e308, -1e308, 0.5, 0.5], (0, 0, 600, 480)),
        ([1, 2, 3, 4], (0, 0, 103, 84)),
    ],
)
def test_boxes(box, expected):
    result = crop(box)
    assert result.boxes == (expected,)
    left, top, right, bottom = expected
    cut = np.asarray(result.images[0])
    assert cut.shape == (bottom - top, right - left, 3)
    np.testing.assert_array_equal(cut, np.asarray(numbered(shade=10))[top:bottom, left:right])
    assert result.kind == "crop"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"bbox_2d": [0.5, 0.1, 0.2, 0.3], "target_image": 1}, "empty or inverted"),
        ({"bbox_2d": [0.1, 0.5, 0.2, 0.3], "target_image": 1}, "empty or inverted"),
        ({"bbox_2d": [0.1, 0.1, 0.1, 0.3], "target_image": 1}, "empty or inverted"),
        ({"bbox_2d": [0, 0, 0, 0], "target_image": 1}, "empty or inverted"),
        ({"bbox_2d": [math.nan, 0, 1, 1], "target_image": 1}, "finite"),
        ({"bbox_2d": [0, 0, math.inf, 1], "target_image": 1}, "finite"),
        ({"bbox_2d": [0, 0, 10**400, 1], "target_image": 1}, "finite"),
        ({"bbox_2d": [3000, 3000, 4000, 4000], "target_image": 1}, "too small: 0x0 pixels of 1000x800"),
        ({"bbox_2d": [-900, -900, -800, -700], "target_image": 1}, "too small"),
        ({"bbox_2d": [-9.5, -9, -8, -7], "target_image": 1}, "too small"),
        ({"bbox_2d": [0.1, 0.2, 0.3], "target_image": 1}, "four numbers"),
        ({"bbox_2d": [], "target_image": 1}, "four numbers"),
        ({"bbox_2d": "0.1,0.2,0.3,0.4", "target_image": 1}, "bbox_2d must be an array, not a JSON string"),
        ({"bbox_2d": [0.1, 0.2, 0.3, "0.4"], "target_image": 1}, "numbers, not a JSON string"),
        ({"bbox_2d": [False, False, True, True], "target_image": 1}, "numbers, not a JSON boolean"),
        ({"bbox_2d": [[0.1], 0.2, 0.3, 0.4], "target_image": 1}, "numbers, not a JSON array"),
        ({"bbox_2d": [None] * 4, "target_image": 1}, "numbers, not a JSON null"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": 0}, "numbered 1 to 1"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": 2}, "numbered 1 to 1"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": -1}, "numbered 1 to 1"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": 10**400}, "numbered 1 to 1"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": 1.5}, "whole numbers"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": math.inf}, "whole numbers"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": math.nan}, "whole numbers"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": "1"}, "whole numbers"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": True}, "whole numbers"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4]}, "missing target_image"),
        ({"target_image": 1}, "missing bbox_2d"),
        ({}, "missing bbox_2d, target_image"),
        ({"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": 1, "label": "x"}, "unknown arguments"),
    ],
)
def test_crops_refused(arguments, reason):
    state = images()
    with pytest.raises(OperationError, match=reason):
        default_registry().execute(Call("zoom_in", arguments), state)
    assert len(state.images) == 1


@pytest.mark.parametrize(("side", "accepted"), [(27, False), (28, False), (29, True), (30, True)])
def test_a_crop_of_28_pixels_is_too_small(side, accepted):
    registry = default_registry(padding=0.0)
    for box in ([100, 100, 100 + side, 400], [100, 100, 400, 100 + side]):
        if accepted:
            assert min(crop(box, registry=registry).images[0].size) == side
        else:
            with pytest.raises(OperationError, match=f"{side}x300|300x{side}"):
                crop(box, registry=registry)


def test_a_crop_too_long_for_the_image_processor_is_refused():
    state = MediaState.from_query(images=[Image.new("RGB", (6000, 40))])
    with pytest.raises(OperationError, match="too long: 6000x29"):
        crop([0, 0, 6000, 29], state=state, registry=default_registry(padding=0.0))
    assert crop([0, 0, 5800, 29], state=state, registry=default_registry(padding=0.0))


def test_padding_is_a_setting():
    assert crop([400, 400, 500, 500], registry=default_registry(padding=0.0)).boxes == ((400, 400, 500, 500),)
    assert crop([400, 400, 500, 500], registry=default_registry(padding=0.2)).boxes == ((200, 240, 700, 660),)
    with pytest.raises(ValueError, match="padding"):
        default_registry(padding=-0.1)


@pytest.mark.parametrize("release", [False, True])
@pytest.mark.parametrize("name", ["crop_image", "crop_image_normalized", "zoom_in"])
def test_the_names_of_the_guidelines_and_of_the_tools_are_one_operation(name, release):
    registry = default_registry(release=release)
    text = (
        '<tool_call>\n{"name": "%s", "arguments": {"bbox_2d": [0.2, 0.25, 0.5, 0.5], "target_image": 1}}\n</tool_call>'
    )
    result = registry.execute(registry.parse(text % name), images())
    assert result.boxes == ((100, 120, 600, 480),)
    assert registry.observation_text(Call(name, {}), result, [(504, 364)]).endswith("(Image Size: 504x364):")


def test_indices_count_query_images_then_results():
    state = images(3)
    assert [shade(crop([0.1, 0.1, 0.3, 0.3], number, state.fork()).images[0]) for number in (1, 2, 3)] == [10, 20, 30]
    first = crop([0.5, 0.5, 0.7, 0.7], 2, state)
    assert first.first_number == 4
    assert first.boxes == ((400, 320, 800, 640),)
    again = crop([0, 0, 100, 100], 4.0, state)  # pixels of the crop
    assert again.boxes == ((0, 0, 140, 132),)
    np.testing.assert_array_equal(np.asarray(again.images[0]), np.asarray(first.images[0])[:132, :140])
    with pytest.raises(OperationError, match="images are numbered 1 to 5"):
        crop([0.1, 0.1, 0.3, 0.3], 6, state)


def test_a_fork_grows_on_its_own():
    state = images()
    fork = state.fork()
    crop([0.1, 0.1, 0.3, 0.3], 1, fork)
    assert (len(state.images), len(fork.images)) == (1, 2)
    clip = video()
    select([1], fork := clip.fork())
    assert fork.selected and not clip.selected


def test_selecting_frames():
    state = video()
    result = select([3, 1.0, 16, 3], state)
    assert [shade(frame) for frame in result.images] == [3, 1, 16, 3]
    assert result.kind == "frame"
    assert result.boxes == ()
    text = default_registry().observation_text(Call("select_frames", {}), result, [(308, 224)] * 4)
    assert text == "\nHere are the selected frames (Frame Size: 308x224, Numbered 1 to 4):"
    second = select([5, 6], state)
    text = default_registry().observation_text(Call("select_frames", {}), second, [(308, 224)] * 2)
    assert text.endswith("Numbered 5 to 6):")


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([0], "numbered 1 to 5"),
        ([6], "numbered 1 to 5"),
        ([1, 2, 99], "numbered 1 to 5"),
        ([], "0 frames; it must have 1 to 8"),
        ([1] * 9, "9 frames; it must have 1 to 8"),
        ([1.5], "whole numbers"),
        (["1"], "whole numbers"),
        ([None], "whole numbers"),
        ([True], "whole numbers"),
        ([10**400], "numbered 1 to 5"),
        (3, "an array, not a JSON number"),
        ({"1": 2}, "an array, not a JSON object"),
    ],
)
def test_frames_refused(frames, reason):
    with pytest.raises(OperationError, match=reason):
        select(frames, video(5))


def test_frames_of_an_image_and_images_of_nothing():
    with pytest.raises(OperationError, match="only for videos"):
        select([1], images())
    with pytest.raises(OperationError, match="no image to crop"):
        crop([0.1, 0.1, 0.5, 0.5], state=MediaState.from_query())
    with pytest.raises(ValueError, match="not both"):
        MediaState.from_query(images=[numbered()], video_frames=[numbered()])


def test_crops_of_a_video_name_its_frames_until_some_are_selected():
    state = video(16)
    assert shade(crop([0.1, 0.1, 0.6, 0.6], 7, state).images[0]) == 7
    assert shade(crop([0.1, 0.1, 0.6, 0.6], 16, state).images[0]) == 16
    with pytest.raises(OperationError, match="frames of the video are numbered 1 to 16"):
        crop([0.1, 0.1, 0.6, 0.6], 17, state)
    selected = select([9, 12], state)  # after two crops: the printed numbers are 3 and 4
    assert selected.first_number == 3
    assert [shade(crop([0.1, 0.1, 0.6, 0.6], number, state).images[0]) for number in (1, 2, 3, 4)] == [7, 16, 9, 12]
    with pytest.raises(OperationError, match="images are numbered 1 to 8"):
        crop([0.1, 0.1, 0.6, 0.6], 9, state)


def test_the_released_numbering():
    registry = default_registry(release=True)
    state = video(16)
    assert shade(crop([0.1, 0.1, 0.6, 0.6], 7, state.fork(), registry).images[0]) == 7
    result = select([9, 12], state, registry)
    assert result.first_number == 1  # printed from 1, asked for from 2
    assert [shade(crop([0.1, 0.1, 0.6, 0.6], n, state.fork(), registry).images[0]) for n in (2, 3)] == [9, 12]
    for number in (1, 4):
        with pytest.raises(OperationError, match="numbered 2 to 3"):
            crop([0.1, 0.1, 0.6, 0.6], number, state, registry)
    assert shade(crop([0.1, 0.1, 0.6, 0.6], 2, images(2), registry).images[0]) == 20


def test_the_released_padding_limit_is_zoom_in_s_alone():
    registry = default_registry(release=True)
    state = MediaState.from_query(images=[Image.new("RGB", (10_000, 4000))])
    box = [5000, 2000, 5100, 2100]
    assert crop(box, 1, state.fork(), registry).boxes == ((4000, 1600, 6100, 2500),)
    assert crop(box, 1, state.fork(), registry, "zoom_in").boxes == ((4400, 1600, 5700, 2500),)
    assert crop(box, 1, state.fork(), None, "zoom_in").boxes == ((4000, 1600, 6100, 2500),)


def test_signatures_tell_the_real_numbers():
    registry = default_registry()

    def told(state):
        return {item["function"]["name"]: json.dumps(item) for item in registry.signatures(state)}

    assert list(told(images())) == ["crop_image_normalized"]
    assert "1 is the original image" in told(images())["crop_image_normalized"]
    assert "1 to 3 are the original images" in told(images(3))["crop_image_normalized"]
    assert list(told(video(2))) == ["crop_image_normalized", "select_frames"]
    assert "Frame index from 1 to 2." in told(video(2))["select_frames"]
    assert "from 1 to 2 a frame of the video" in told(video(2))["crop_image_normalized"]
    exact = (
        "if all are at most 1 and not all whole, else pixels of the image as shown; [0, 0, 1, 1] is the whole image."
    )
    assert exact in told(images())["crop_image_normalized"]
    released = default_registry(release=True).signatures(images())
    assert [item["function"]["name"] for item in released] == ["crop_image_normalized", "select_frames"]
    assert "Frame index from 1 to 16." in json.dumps(released)


def test_several_calls_by_the_registry_s_rule():
    one = '<tool_call>\n{"name": "%s", "arguments": {}}\n</tool_call>'
    text = one % "a" + one % "b"
    assert isinstance(default_registry().parse(text), OperationError)
    assert default_registry(release=True).parse(text) == Call("b", {})


def test_unknown_names_are_errors_that_list_the_known():
    with pytest.raises(OperationError, match=r'named "look"; the functions are crop_image_normalized, select_frames'):
        default_registry().execute(Call("look", {}), images())
    with pytest.raises(OperationError) as error:
        default_registry().execute(Call("<|im_end|>\ud800é" * 1000, {}), images())
    assert len(str(error.value)) < 400
    str(error.value).encode("ascii")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
boxes = st.lists(st.floats(-2, 2) | st.floats() | st.integers(-100, 1200), min_size=4, max_size=4)
arguments = (
    st.dictionaries(st.sampled_from(["bbox_2d", "target_image", "target_frames", "x"]), anything)
    | st.fixed_dictionaries({"bbox_2d": boxes, "target_image": st.integers(0, 3)})
    | st.fixed_dictionaries({"bbox_2d": anything, "target_image": anything})
    | st.fixed_dictionaries({"target_frames": st.lists(st.integers(-1, 9) | anything, max_size=9)})
)
names = st.sampled_from(["crop_image_normalized", "zoom_in", "select_frames", "x"])


@given(names, arguments, st.booleans(), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_arguments_give_a_sound_result_or_an_error(name, arguments, release, is_video):
    registry, state = default_registry(release=release), video(8) if is_video else images(2)
    before = len(state.images)
    try:
        result = registry.execute(Call(name, arguments), state)
    except OperationError as error:
        assert "failed" not in str(error)  # every refusal is a considered one
        assert len(str(error)) < 400
        assert len(state.images) == before
        return
    assert state.images[before:] == result.images
    for (left, top, right, bottom), image in zip(result.boxes, result.images, strict=False):
        assert min(right - left, bottom - top) > 28
        assert image.size == (right - left, bottom - top)
        assert 0 <= left < right <= 1000 and 0 <= top < bottom <= 800


class Flip(Operation):
    """A new operation is one class."""

    name = "flip"

    def describe(self, state):
        return {"type": "function", "function": {"name": "flip", "description": f"Mirror {len(state.images)} images."}}

    def run(self, arguments, state):
        if arguments.get("axis") == "broken":
            raise ZeroDivisionError
        flipped = state.images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return Result([flipped], "crop", len(state.images) + 1)

    def observation_text(self, result, sizes):
        return f"\nMirrored ({sizes[0][0]}x{sizes[0][1]}):"


def test_a_new_operation_is_one_class():
    registry = default_registry()
    registry.register(Flip())
    state = images()
    assert registry.signatures(state)[-1]["function"]["description"] == "Mirror 1 images."
    call = registry.parse('<tool_call>\n{"name": "flip", "arguments": {}}\n</tool_call>')
    result = registry.execute(call, state)
    assert registry.observation_text(call, result, [(28, 28)]) == "\nMirrored (28x28):"
    assert crop([0.1, 0.1, 0.3, 0.3], 2, state, registry).images[0].getpixel((0, 0)) == (249, 0, 10)
    with pytest.raises(ValueError, match="'flip' is registered already"):
        registry.register(Flip())


def test_an_operation_s_own_bug_is_an_observation_too(caplog):
    with pytest.raises(OperationError, match="flip failed"):
        Registry([Flip()]).execute(Call("flip", {"axis": "broken"}), images())
    assert "ZeroDivisionError" in caplog.text  # and it is not lost


def test_aliases_may_not_collide():
    with pytest.raises(ValueError, match="'zoom_in'"):
        Registry([CropImage(), CropImage(name="other", aliases=("zoom_in",))])
