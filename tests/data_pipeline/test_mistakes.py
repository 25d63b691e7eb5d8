"""Wrong boxes and frames are wrong by construction."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipeline.sources.pixel_search import CELL_BOXES
from data_pipeline.synthesis.mistakes import (
    LIMIT,
    area,
    contains,
    disjoint_box,
    disjoint_frames,
    intersects,
    larger_box,
    outer_box,
    shown_box,
    widened,
)
from pixel_reasoner_jax.operations import MediaState, OperationError
from pixel_reasoner_jax.operations.crop import CropImage


@st.composite
def boxes(draw):
    left, right = sorted(draw(st.tuples(*[st.integers(0, 1000)] * 2).filter(lambda pair: pair[0] != pair[1])))
    top, bottom = sorted(draw(st.tuples(*[st.integers(0, 1000)] * 2).filter(lambda pair: pair[0] != pair[1])))
    return left / 1000, top / 1000, right / 1000, bottom / 1000


seeds = st.integers(0, 2**32)


@given(boxes(), seeds, st.sampled_from([0.0, 0.01, 0.1]), st.tuples(*[st.floats(0.01, 0.3)] * 2))
@settings(max_examples=400)
def test_a_disjoint_box_never_shows_the_cue(cue, seed, padding, least):
    box = disjoint_box(cue, np.random.default_rng(seed), padding=padding, least=least)
    room = max(cue[0], LIMIT - cue[2], cue[1], LIMIT - cue[3]) - padding
    if box is None:
        assert room < max(least) + 0.005
        return
    assert 0 <= box[0] < box[2] < 1 and 0 <= box[1] < box[3] < 1
    assert not intersects(widened(box, padding), cue)
    assert box[2] - box[0] >= least[0] - 1e-9 and box[3] - box[1] >= least[1] - 1e-9


@given(boxes(), seeds)
def test_a_box_is_refused_only_where_no_side_has_room(cue, seed):
    room = max(cue[0], LIMIT - cue[2], cue[1], LIMIT - cue[3])
    box = disjoint_box(cue, np.random.default_rng(seed), least=(0.05, 0.05))
    assert box is not None if room > 0.053 else box is None if room < 0.05 else True


sizes = st.tuples(*[st.integers(40, 4000)] * 2)


@given(boxes(), seeds, sizes, st.sampled_from([0.0, 0.01, 0.1]), st.floats(1.5, 10))
@example((0.0, 0.999, 0.001, 1.0), 0, (1000, 1000), 0.0, 2.0)
@example((0.999, 0.999, 1.0, 1.0), 0, (1000, 1000), 0.1, 10.0)
@settings(max_examples=400)
def test_of_a_larger_box_more_is_returned(cue, seed, size, padding, factor):
    """By the very operation."""
    box = larger_box(cue, np.random.default_rng(seed), size, padding=padding, factor=factor)
    right = shown_box(outer_box(cue), size, padding)
    if box is None:
        assert not area(right) or factor * area(right) > 0.89 * size[0] * size[1]
        return
    assert contains(box, outer_box(cue)) and 0 <= box[0] and 0 <= box[1] and max(box) < 1
    state = MediaState.from_query(images=[Image.new("1", size)])
    try:
        (crop,), (single,) = (
            CropImage(padding).run({"bbox_2d": list(each), "target_image": 1}, state).images
            for each in (box, outer_box(cue))
        )
    except OperationError:  # too small or too long, whatever the box
        return
    assert single.size == (right[2] - right[0], right[3] - right[1])
    assert crop.width * crop.height >= factor * single.width * single.height
    # The thousandths of coordinates may take a little more than was asked for.
    assert crop.width * crop.height <= 0.9 * size[0] * size[1] + 0.002 * size[0] * size[1] + sum(size) * 2


def test_where_padding_leaves_no_room_there_is_no_larger_box():
    """Four times the area of a cell of three by three, a tenth wider on every side, are more than the image."""
    cue = (1 / 3, 1 / 3, 2 / 3, 2 / 3)
    assert larger_box(cue, np.random.default_rng(0), (900, 900), padding=0.1) is None
    assert larger_box(cue, np.random.default_rng(0), (900, 900), padding=0.0) is not None


@given(st.integers(0, 15), seeds)
def test_candidates_that_show_the_cue_are_not_taken(cell, seed):
    cue, rng = CELL_BOXES[cell], np.random.default_rng(seed)
    box = disjoint_box(cue, rng, padding=0.01, candidates=CELL_BOXES)
    assert box in CELL_BOXES and box != cue
    assert not intersects(widened(disjoint_box(cue, rng, padding=0.1, candidates=CELL_BOXES), 0.1), cue)
    assert disjoint_box(cue, rng, candidates=[cue]) is None


@given(st.data(), st.integers(1, 40), seeds)
def test_frames_are_disjoint_and_in_range(data, total, seed):
    cue = data.draw(st.lists(st.integers(1, total), min_size=1, max_size=8, unique=True))
    frames = disjoint_frames(cue, total, np.random.default_rng(seed))
    if frames is None:
        assert len(cue) == total
        return
    assert not set(frames) & set(cue) and all(1 <= frame <= total for frame in frames)
    assert list(frames) == sorted(set(frames)) and len(frames) == min(len(cue), total - len(cue))


@given(boxes(), boxes())
def test_intersection_is_symmetric(box, other):
    assert intersects(box, other) == intersects(other, box)
    assert intersects(box, box) and contains(box, box)
