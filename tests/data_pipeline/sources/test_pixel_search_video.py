"""The world of videos: where the box is colored, and what is left of a digit at a token a frame."""

import numpy as np
import pytest

from data_pipeline.sources.pixel_search import BOX, COLORS, DIGITS, GREY, OFFSETS, SPLITS
from data_pipeline.sources.pixel_search_video import FRAMES, VIEW, PixelSearchVideo, frame
from pixel_reasoner_jax.processing import Budgets, Processor


def color_of(image) -> tuple:
    """The world's color that a frame shows; else gray."""
    found = {color for _, color in image.convert("RGB").getcolors()}
    return next((color for color in COLORS.values() if color in found), GREY)


def test_the_box_is_colored_in_the_frames_of_the_cue():
    world = PixelSearchVideo(40, "rl", seed=2)
    for index in range(40):
        seed = world[index]
        lit = tuple(number for number, one in enumerate(seed.video, 1) if color_of(one) != GREY)
        assert lit == seed.cue and len(seed.video) == FRAMES and len(lit) in (1, 2)
        assert {color_of(seed.video[number - 1]) for number in lit} == {COLORS[seed.attributes["color"]]}
        again = PixelSearchVideo(100, "rl", seed=2)[index]
        assert again.id == seed.id and [one.tobytes() for one in again.video] == [one.tobytes() for one in seed.video]
    assert len({PixelSearchVideo(1, split)[0].video[0].tobytes() for split in SPLITS}) == len(SPLITS)
    with pytest.raises(IndexError):
        world[40]


def test_a_digit_is_seen_in_a_selected_frame_alone(processor):
    reader = Processor(
        processor.tokenizer, processor.config, processor.preprocessor, Budgets(video=(1, 1), frame=(16, 20))
    )
    for color in (*COLORS.values(), GREY):
        frames = [frame((OFFSETS[0], OFFSETS[1], color, digit), 240) for digit in range(DIGITS)]
        assert reader.resized(frames[0].size, "video") == (VIEW, VIEW)
        assert reader.resized(frames[0].size, "frame") == frames[0].size
        shown = [reader.video([one, one], fps=2.0).pixels for one in frames]
        assert all(np.array_equal(shown[0], other) for other in shown[1:])
        assert len({one.tobytes() for one in frames}) == DIGITS
    assert BOX < frames[0].width


def test_colors_favour_their_digit():
    world = PixelSearchVideo(600, "heldout")
    right = [seed.answer == seed.attributes["prior_answer"] for seed in map(world.__getitem__, range(600))]
    assert np.mean(right) == pytest.approx(0.45, abs=0.06)
