"""Every operation has an example of a call, which can be executed again and again."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.checks.forced_calls import FORCED, ForcedCalls
from pixel_reasoner_jax.operations import OPERATIONS, Call, MediaState, make_registry
from pixel_reasoner_jax.processing import Budgets, PictureStore, smart_resize
from pixel_reasoner_jax.processing.videos import sample_frames

OF_VIDEOS = {"select_frames", "frames_by_number", "frames_between", "frame_at_time", "find_segment"}
OF_VIDEOS |= {"video_com_segment", "video_com_frame"}


def resized(size, kind):
    return smart_resize(size, Budgets().of(kind))


def images() -> MediaState:
    noise = np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8)
    return MediaState.from_query([PictureStore().open(Image.fromarray(noise))], resized=resized)


def video() -> MediaState:
    frames = [Image.new("RGB", (320, 240), (number, 0, 0)) for number in range(120)]
    sampled = sample_frames(frames, 8, 2.0, PictureStore().open, 0.0)
    return MediaState.from_query(video_frames=sampled.frames, resized=resized, clip=sampled.clip)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_example_can_be_executed(name):
    registry = make_registry((name,))
    [operation] = registry.operations
    for state in (images(), video()):
        example = operation.example(state)
        assert (example is None) == (name in OF_VIDEOS and not state.frames)
        if example is None:
            assert not operation.offered(state)
            continue
        for _ in range(3):
            result = registry.execute(Call(operation.name, operation.example(state)), state)
            sizes = [resized(image.size, result.kind) for image in result.images]
            assert registry.observation_text(Call(operation.name, {}), result, sizes).startswith("\nHere ")
            for image in result.images:
                pixels = image.load() if hasattr(image, "original") else image
                assert pixels.size == image.size
    assert operation.example(MediaState.from_query()) is None


def test_every_operation_of_a_model_is_forced_in_turn():
    registry = ForcedCalls(make_registry(("rotate_image", "zoom_image", "find_segment")))
    state = images()
    said = []
    for _ in range(4):
        result = registry.execute(FORCED, state)
        said.append(registry.observation_text(FORCED, result, [(28, 28)]).partition(" (")[0])
    assert said == ["\nHere is the rotated image", "\nHere is the cropped image"] * 2
    state = video()
    result = registry.execute(registry.parse("It is a dog."), state)
    assert result.made.name == "rotate_image" and registry.execute(FORCED, state).made.name == "zoom_image"
    assert registry.execute(FORCED, state).made.name == "find_segment"


def test_the_paper_s_operations_are_forced_as_ever():
    registry, state = ForcedCalls(make_registry()), video()
    assert [registry.execute(FORCED, state).made.name for _ in range(3)] == ["select_frames"] + 2 * [
        "crop_image_normalized"
    ]
