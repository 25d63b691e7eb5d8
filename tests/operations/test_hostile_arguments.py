"""Whatever arguments a model gives, an operation returns sound images or says what would be right."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.operations import OPERATIONS, Call, MediaState, OperationError, make_registry
from pixel_reasoner_jax.operations.base import MOST_EDITED
from pixel_reasoner_jax.processing import Budgets, PictureStore, smart_resize
from pixel_reasoner_jax.processing.videos import sample_frames

HUGE, DEEP = 10**400, [[[[[[[1]]]]]]]
SCALARS = (None, True, False, 0, 1, -1, 2.0, 0.5, 1e-300, 1e308, -1e308, math.inf, math.nan, HUGE, -HUGE, 90, 359.999)
TEXTS = ("", "1", "img_1", "img_0", "img_99", "original_image", "observation_1", "observation_-1", "00:01", "99:99:99")
TEXTS += ("y=50", "x=1", "y=" + "9" * 300, "../../etc/passwd", "\x00", "é" * 5000, "<|image_pad|>", "NaN")
BOXES = ([10, 10, 90, 90], [0.1, 0.1, 0.9, 0.9], [0, 0, 1, 1], [90, 90, 10, 10], [-1e308, -1e308, 1e308, 1e308])
BOXES += (
    [0, 0, math.inf, 1],
    [math.nan] * 4,
    [HUGE] * 4,
    [1, 2],
    [50, 40],
    [0, 0],
    [1, 2, 3],
    [],
    [None] * 4,
    ["1"] * 4,
)
SHAPES = [
    {"bbox_2d": box, "start_point_2d": box[:2], "end_point_2d": box[-2:], "label": "a", "index": 0} for box in BOXES
]
LISTS = (
    [1], [1, 2, 3], [0], [1] * 100, [1.5], ["1"], [HUGE], DEEP, [{}], [None],
    *([{key: shape[key] for key in ("bbox_2d", "label")}] for shape in SHAPES),
    *([{key: shape[key] for key in ("bbox_2d", "index")}] * 3 for shape in SHAPES),
    *([{key: shape[key] for key in ("start_point_2d", "end_point_2d", "label")}] for shape in SHAPES),
    [{"bbox_2d": [1, 1, 9, 9], "label": label} for label in ("a", 3)], [{"bbox_2d": [1, 1, 9, 9], "index": math.nan}],
)  # fmt: skip
ANYTHING = (*SCALARS, *TEXTS, *BOXES, *LISTS, {}, {"bbox_2d": [0, 0, 1, 1]})


def resized(size, kind):
    return smart_resize(size, Budgets().of(kind))


def states():
    store = PictureStore()
    frames = [Image.new("RGB", (160, 120), (number, 0, 0)) for number in range(90)]
    sampled = sample_frames(frames, 8, 2.0, store.open, 0.0)
    yield MediaState.from_query([store.open(Image.new("RGB", (320, 200)))] * 2, resized=resized)
    yield MediaState.from_query(video_frames=sampled.frames, resized=resized, clip=sampled.clip)
    yield MediaState.from_query(resized=resized)
    yield MediaState.from_query([Image.new("RGB", (1, 1)), Image.new("RGB", (3000, 20))])


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_arguments_give_sound_images_or_an_error(name):
    random, registry = np.random.default_rng(len(name)), make_registry((name,))
    [operation] = registry.operations
    names, succeeded = (*operation.arguments, *operation.argument_aliases, "label", "x"), 0
    for state, _ in itertools.product(states(), range(60)):
        arguments = operation.example(state) or {}
        for changed in random.choice(names, int(random.integers(0, 3))):
            arguments[str(changed)] = ANYTHING[random.integers(len(ANYTHING))]
        if random.random() < 0.1:
            arguments.pop(operation.arguments[0], None)
        before = len(state.images)
        try:
            result = registry.execute(Call(operation.name, arguments), state.fork())
        except OperationError as error:
            assert " failed (" not in str(error), arguments  # every refusal is a considered one
            assert len(str(error)) < 400 and len(state.images) == before and not state.drawings
            str(error).encode("ascii")
            continue
        succeeded += 1
        assert 1 <= len(result.images) <= 16 and result.first_number == before + 1
        assert result.kind in ("crop", "frame", "image")
        for image in result.images:
            assert 0 < image.width * image.height <= MOST_EDITED
            pixels = image if isinstance(image, Image.Image) else image.load()
            assert pixels.size == image.size and pixels.mode == "RGB"
        for left, top, right, bottom in result.boxes:
            assert 0 <= left < right <= 3000 and 0 <= top < bottom <= 200
        registry.observation_text(Call(operation.name, arguments), result, [(28, 28)] * len(result.images))
    assert succeeded > 10
