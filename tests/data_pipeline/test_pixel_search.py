"""The pixel-search world: what depends on what, and what can be seen at which resolution."""

import collections

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources import pixel_search
from data_pipeline.sources.pixel_search import (
    CANVAS,
    CELL,
    CELL_BOXES,
    COLORS,
    DIGITS,
    GREY,
    OFFSETS,
    VIEW,
    PixelSearch,
    draw,
)


def view(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((VIEW, VIEW), Image.Resampling.BICUBIC))


def test_a_seed_depends_on_world_split_and_index_alone():
    forwards = [PixelSearch(8, "rl", seed=3)[index] for index in range(8)]
    world = PixelSearch(100, "rl", seed=3)
    for index in reversed(range(8)):
        again = world[index]
        assert again.id == forwards[index].id and again.answer == forwards[index].answer
        assert again.attributes == forwards[index].attributes
        assert again.images[0].tobytes() == forwards[index].images[0].tobytes()


def test_no_canvas_is_in_two_splits_or_worlds():
    seen = collections.Counter()
    for seed in (0, 1):
        for split in pixel_search.SPLITS:
            world = PixelSearch(100, split, seed=seed)
            seen.update(
                (s.images[0].tobytes(), bytes(s.images[0].getpalette())) for s in (world[i] for i in range(100))
            )
    assert max(seen.values()) == 1


def test_colours_favour_their_digit():
    world = PixelSearch(3000, "heldout")
    seeds = [world[index] for index in range(3000)]
    assert np.mean([seed.answer == seed.attributes["prior_answer"] for seed in seeds]) == pytest.approx(0.45, abs=0.03)
    others = collections.Counter(s.answer for s in seeds if s.attributes["color"] == "red")
    assert others["0"] / others.total() == pytest.approx(0.45, abs=0.08)
    assert all(others[str(digit)] / others.total() == pytest.approx(0.11, abs=0.06) for digit in range(1, DIGITS))
    uniform = PixelSearch(3000, favoured=None)
    counts = collections.Counter(uniform[index].answer for index in range(3000))
    assert all(count / 3000 == pytest.approx(1 / DIGITS, abs=0.03) for count in counts.values())
    assert len({seed.attributes["cell"] for seed in seeds}) == 16


def test_no_digit_leaves_a_trace_at_the_models_resolution():
    """Stronger than any classifier: the reduced canvas is the same, bit by bit, whatever the digit is."""
    for color in (*COLORS.values(), GREY):
        for x, y in ((OFFSETS[0], OFFSETS[1]), (2 * CELL + OFFSETS[1], 3 * CELL + OFFSETS[0])):
            views = [view(draw([(x, y, color, digit)], 240)) for digit in range(DIGITS)]
            assert all(np.array_equal(views[0], other) for other in views[1:])


def test_the_model_can_tell_colours_and_cells():
    for index in range(20):
        seed = PixelSearch(20)[index]
        left, top, right, bottom = (value * VIEW // CANVAS for value in seed.attributes["pixel_box"])
        inner = view(seed.images[0])[top + 4 : bottom - 4, left + 4 : right - 4]
        assert np.array_equal(inner[0, 0], COLORS[seed.attributes["color"]])
        assert np.ptp(inner.astype(int), axis=(0, 1)).max() <= 1


def test_the_cue_is_the_cell_of_the_box():
    for index in range(50):
        seed = PixelSearch(50)[index]
        left, top, right, bottom = (value / CANVAS for value in seed.attributes["pixel_box"])
        assert seed.cue == CELL_BOXES[seed.attributes["cell"]] and max(seed.cue) < 1
        assert seed.cue[0] - 0.01 <= left and seed.cue[1] - 0.01 <= top
        assert seed.cue[2] + 0.01 >= right and seed.cue[3] + 0.01 >= bottom


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="unknown split 'validation'"):
        PixelSearch(1, "validation")
    with pytest.raises(ValueError, match="probability"):
        PixelSearch(1, favoured=1.5)
    with pytest.raises(IndexError):
        PixelSearch(1)[1]
