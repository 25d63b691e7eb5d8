"""Boxes land where the crops were taken, checked against the operations themselves."""

import types

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.operations import Call, MediaState, default_registry
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.report.lineage import CropBox, crop_boxes
from pixel_reasoner_jax.trajectory import OperationRecord


def user(*content):
    return [{"role": "user", "content": list(content)}]


def crop(box, source=0):
    return OperationRecord(0, "zoom_in", {}, boxes=(box,), sizes=((28, 28),), sources=(source,))


def test_a_crop_of_a_crop_is_traced_to_the_image(make_trajectory):
    operations = [crop((100, 50, 300, 250)), crop((10, 20, 60, 80), 1), crop((0, 0, 30, 30), 2)]
    assert crop_boxes(make_trajectory(operations=operations)) == [
        CropBox(1, 0, (100, 50, 300, 250)),
        CropBox(2, 0, (110, 70, 160, 130)),
        CropBox(3, 0, (110, 70, 140, 100)),
    ]


def test_failed_calls_leave_no_box_and_no_number(make_trajectory):
    failed = OperationRecord(0, "zoom_in", {"target_image": 7}, error="no")
    unknown = OperationRecord(0, "invert", {}, sizes=((28, 28),))  # of an operation that does not say
    operations = [crop((10, 10, 60, 60)), failed, unknown, crop((1, 1, 40, 40), 2), crop((1, 1, 40, 40), 1)]
    assert [m.number for m in crop_boxes(make_trajectory(operations=operations))] == [1, 5]


def test_several_images(make_trajectory):
    images = [{"type": "image", "image": Image.new("RGB", (90, 90))} for _ in range(2)]
    operations = [crop((5, 5, 50, 50), 1), crop((1, 1, 40, 40), 2)]
    found = crop_boxes(make_trajectory(messages=user(*images), operations=operations))
    assert found == [CropBox(1, 1, (5, 5, 50, 50)), CropBox(2, 1, (6, 6, 45, 45))]


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def run(calls, state, registry):
    """Executes calls; returns their records, and the crops that came back."""
    records, crops = [], []
    for name, arguments in calls:
        result = registry.execute(Call(name, arguments), state)
        crops += result.images if result.boxes else []
        sizes = tuple(image.size for image in result.images)
        records.append(OperationRecord(0, name, arguments, None, result.boxes, sizes, result.sources))
    return records, crops


def zoom(box, target):
    return "crop_image_normalized", {"bbox_2d": box, "target_image": target}


def test_marks_agree_with_the_operations(make_trajectory):
    """The pixels under every mark are the pixels that the operation returned."""
    image = noise(400, 300)
    calls = [zoom([0.2, 0.2, 0.8, 0.9], 1), zoom([30, 40, 200, 150], 2), zoom([0.5, 0.1, 0.9, 0.6], 3)]
    operations, crops = run(calls, MediaState.from_query(images=[image]), default_registry())
    found = crop_boxes(make_trajectory(image, operations=operations))
    assert len(found) == 3
    for crop, returned in zip(found, crops, strict=True):
        assert np.array_equal(np.asarray(image.crop(crop.box)), np.asarray(returned))


def test_marks_of_the_release_are_where_its_smaller_crops_come_from(make_trajectory):
    """It cuts from a copy of half the size, and from a crop of that at twice its size."""
    picture = PictureStore().open(noise(400, 300))

    def resized(size, kind):
        return tuple(2 * side if kind == "crop" else side // 2 for side in size)

    calls = [zoom([0.2, 0.2, 0.8, 0.9], 1), zoom([24, 42, 120, 189], 2)]  # of 240x210 pixels shown
    state = MediaState.from_query(images=[picture], resized=resized)
    operations, crops = run(calls, state, default_registry(padding=0.0, release=True))
    assert [crop.size for crop in crops] == [(120, 105), (96, 147)]
    boxes = [crop.box for crop in crop_boxes(make_trajectory(picture, operations=operations))]
    assert boxes == [(80, 60, 320, 270), (80 + 24, 60 + 42, 80 + 120, 60 + 189)]


@pytest.mark.parametrize("release", [False, True])
def test_frames_of_a_video_by_either_numbering(make_trajectory, release):
    """A crop of a frame, one of it or of another frame, then frames are selected and cropped."""
    frames = [noise(300, 200, seed) for seed in range(4)]
    box, select = [0.2, 0.2, 0.6, 0.7], ("select_frames", {"target_frames": [4, 2]})
    # A crop counts from 1 once frames were selected; for the release, from 2 as soon as there is one.
    calls = [zoom(box, 3), zoom(box, 2), select, zoom(box, 5 if release else 4), zoom(box, 2 if release else 1)]
    state = MediaState.from_query(video_frames=frames)
    operations, crops = run(calls, state, default_registry(release=release))
    video = {"type": "video", "video": types.SimpleNamespace(frames=frames)}
    found = crop_boxes(make_trajectory(messages=user(video), operations=operations))
    assert [crop.number for crop in found] == [1, 2, 4, 5]
    assert [crop.picture for crop in found] == [2, 2 if release else 1, 1, 2]
    for crop, returned in zip(found, crops, strict=True):
        assert np.array_equal(np.asarray(frames[crop.picture].crop(crop.box)), np.asarray(returned))
