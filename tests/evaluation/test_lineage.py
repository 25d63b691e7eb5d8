"""Boxes land where the crops were taken, checked against the operations themselves."""

import types

import numpy as np
from PIL import Image

from pixel_reasoner_jax.evaluation.lineage import Mark, marks
from pixel_reasoner_jax.operations import Call, MediaState, default_registry
from pixel_reasoner_jax.trajectory import OperationRecord

VIDEO = types.SimpleNamespace(frames=[Image.new("RGB", (200, 100), (i, i, i)) for i in range(4)])


def user(*content):
    return [{"role": "user", "content": list(content)}]


def crop(box, target=1):
    return OperationRecord(0, "zoom_in", {"target_image": target}, boxes=(box,), sizes=((28, 28),))


def select(*frames):
    return OperationRecord(0, "select_frames", {"target_frames": list(frames)}, sizes=((28, 28),) * len(frames))


def test_a_crop_of_a_crop_is_traced_to_the_image(make_trajectory):
    operations = [crop((100, 50, 300, 250)), crop((10, 20, 60, 80), 2), crop((0, 0, 30, 30), 3)]
    assert marks(make_trajectory(operations=operations)) == [
        Mark(1, 0, (100, 50, 300, 250)),
        Mark(2, 0, (110, 70, 160, 130)),
        Mark(3, 0, (110, 70, 140, 100)),
    ]


def test_failed_calls_leave_no_box_and_no_number(make_trajectory):
    failed = OperationRecord(0, "zoom_in", {"target_image": 7}, error="no")
    operations = [crop((10, 10, 60, 60)), failed, crop((1, 1, 40, 40), 2), crop((0, 0, 30, 30), "2")]
    assert [m.number for m in marks(make_trajectory(operations=operations))] == [1, 3]


def test_several_images(make_trajectory):
    images = [{"type": "image", "image": Image.new("RGB", (90, 90))} for _ in range(2)]
    operations = [crop((5, 5, 50, 50), 2), crop((1, 1, 40, 40), 3.0)]
    found = marks(make_trajectory(messages=user(*images), operations=operations))
    assert found == [Mark(1, 1, (5, 5, 50, 50)), Mark(2, 1, (6, 6, 45, 45))]


def test_frames_of_a_video(make_trajectory):
    operations = [crop((0, 0, 50, 50), 3), select(4, 2), crop((1, 2, 40, 42), 3), crop((5, 5, 40, 40), 2)]
    found = marks(make_trajectory(messages=user({"type": "video", "video": VIDEO}), operations=operations))
    # Before the selection 3 is the third frame; afterwards 1 is that crop, 2 and 3 are frames 4 and 2.
    assert found == [Mark(1, 2, (0, 0, 50, 50)), Mark(3, 1, (1, 2, 40, 42)), Mark(4, 3, (5, 5, 40, 40))]


def test_marks_agree_with_the_operations(make_trajectory):
    """The pixels under every mark are the pixels that the operation returned."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    state, registry, operations, crops = MediaState.from_query(images=[image]), default_registry(), [], []
    for box, target in [([0.2, 0.2, 0.8, 0.9], 1), ([30, 40, 200, 150], 2), ([0.5, 0.1, 0.9, 0.6], 3)]:
        arguments = {"bbox_2d": box, "target_image": target}
        result = registry.execute(Call("crop_image_normalized", arguments), state)
        crops += result.images
        operations.append(OperationRecord(0, "crop_image_normalized", arguments, boxes=result.boxes))
    found = marks(make_trajectory(image, operations=operations))
    assert len(found) == 3
    for mark, returned in zip(found, crops, strict=True):
        assert np.array_equal(np.asarray(image.crop(mark.box)), np.asarray(returned))
