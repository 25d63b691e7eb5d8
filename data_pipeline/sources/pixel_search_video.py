"""The pixel-search world as videos: a question can be answered only by selecting frames, and guessed without.

A video of 8 frames of 112x112 pixels, each with one box as `pixel_search` draws it. The box is colored in one frame or
in two that follow each other, and gray in the others; the question asks for the digit in the colored box. At one
visual token a frame (28x28 pixels; `Budgets(video=(1, 1))`) the colors are seen and the digits are averaged away
exactly; a selected frame shows them. The color favours one digit, as in the world of images.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from data_pipeline.seed import Seed
from data_pipeline.sources.pixel_search import (
    CELL,
    COLORS,
    DIGITS,
    ENDLESS,
    GREY,
    OFFSETS,
    QUESTION,
    SPLITS,
    PixelSearch,
    draw,
)

FRAMES = 8
FPS = 2.0
VIEW = CELL // 4  # pixels a side of a frame in which no digit is left


@dataclasses.dataclass(frozen=True)
class PixelSearchVideo(PixelSearch):
    """The world as a source of seeds; arguments as in `PixelSearch`."""

    def __getitem__(self, index: int) -> Seed:
        if not 0 <= index < self.count:
            raise IndexError(f"seed {index} of {self.count}")
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index, FRAMES))
        shown = int(rng.integers(1, 3))
        first = int(rng.integers(FRAMES - shown + 1))
        color = int(rng.integers(len(COLORS)))
        digit = self._digit(color, rng)
        background = int(rng.integers(224, 256))
        frames = []
        for number in range(FRAMES):
            lit = first <= number < first + shown
            left, top = (int(offset) for offset in rng.choice(OFFSETS, 2))
            other = int(rng.integers(DIGITS))
            box = (left, top, tuple(COLORS.values())[color] if lit else GREY, digit if lit else other)
            frames.append(frame(box, background))
        return Seed(
            id=f"pixel-search-video-{self.seed}-{self.split}-{index:06d}",
            question=QUESTION,
            answer=str(digit),
            video=frames,
            fps=FPS,
            cue=tuple(range(first + 1, first + shown + 1)),
            attributes={"color": tuple(COLORS)[color], "prior_answer": str(color)},
        )


def frame(box: tuple[int, int, tuple[int, int, int], int], background: int) -> Image.Image:
    """A frame with one box, (left, top, color, digit); the background's gray level."""
    return draw([box], background).crop((0, 0, CELL, CELL))


def endless(split: str) -> PixelSearchVideo:
    """A split as a source of `ENDLESS` seeds."""
    return PixelSearchVideo(ENDLESS, split)
