"""Windows of time as frames."""

import pytest

from data_pipeline.seed import Seed

TIMES = [0.5 * number for number in range(16)]  # 0 to 7.5 s


def cue(start, end) -> tuple[int, ...]:
    return Seed("s", "?", "x", video="file", window=(start, end)).with_frames(TIMES).cue


def test_the_frames_within_a_window_are_the_cue():
    assert cue(1.0, 2.0) == (3, 4, 5) and cue(0, 0.1) == (1,) and cue(7.5, 99) == (16,)
    assert cue(1.1, 1.2) == (3,) and cue(1.3, 1.45) == (4,) and cue(8, 9) == (16,)  # the nearest
    assert cue(0, 9) == (1, 3, 5, 7, 10, 12, 14, 16)  # an operation selects no more


def test_a_seed_without_a_window_stays_as_it_is():
    seed = Seed("s", "?", "x", video="file", cue=(2, 3))
    assert seed.with_frames(TIMES) is seed


@pytest.mark.parametrize("window", [(2, 1), (-1, 1), (8.6, 9)])
def test_what_is_no_window_is_named(window):
    with pytest.raises(ValueError, match="seed s: from .* is no window of a video of 7.5 s"):
        cue(*window)
