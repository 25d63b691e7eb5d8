"""A procedural world of images whose question can be answered only by zooming, and guessed fairly well without.

A canvas of 4x4 cells shows three boxes, one coloured and two grey, each with a digit 0 to 5; the question asks for the
digit in the coloured box. The model sees the canvas reduced 4 times, one visual token a cell. A digit is drawn as a
fine checker around its box's own colour, one period for every 4 pixels, so the reduction averages it away exactly; a
crop of one cell shows it. The colour favours one digit, so guessing from it is right nearly half the time.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from PIL import Image

from data_pipeline.seed import NormalizedBox, Seed
from pixel_reasoner_jax.errors import UserError

CANVAS = 448  # pixels a side
GRID = 4  # cells a side
CELL = CANVAS // GRID
BOX = 100  # pixels a side of a box: most of a cell
OFFSETS = (4, 8)  # where a box may start in its cell; multiples of TILE, so that the checker meets the model's pixels
TILE = 4  # period of the checker, in pixels; also the reduction from the canvas to what the model sees
CONTRAST = 68  # of the checker, around the colour, in grey levels
VIEW = CANVAS // TILE  # pixels a side of what the model sees, of the canvas and of a crop alike

ENDLESS = 1_000_000  # seeds of a split that is opened without a count

QUESTION = "Which digit is in the colored box?"
LABEL = "colored box"
SPLITS = ("pretrain", "sft", "rl", "heldout")
COLORS = {
    "red": (186, 70, 70),
    "green": (70, 186, 70),
    "blue": (70, 70, 186),
    "yellow": (186, 186, 70),
    "magenta": (186, 70, 186),
    "cyan": (70, 186, 186),
}
GREY = (128, 128, 128)
DIGITS = 6

_GLYPHS = (
    ("111", "101", "101", "101", "111"),
    ("010", "110", "010", "010", "111"),
    ("111", "001", "111", "100", "111"),
    ("111", "001", "111", "001", "111"),
    ("101", "101", "111", "001", "001"),
    ("111", "100", "111", "001", "111"),
)
# Height and width of a glyph's dot in pixels: whole periods, so that every stroke averages to the box's colour, and the
# glyph stays 5 periods from the border of its box, whose ringing in a bicubic reduction would carry what is left of it.
_DOT = (3 * TILE, 5 * TILE)


def cell_box(cell: int) -> NormalizedBox:
    """The normalized box of a cell, one hundredth of the image inside its borders.

    All coordinates are below 1: an operation takes coordinates from 1 on for pixels. Widened by a padding of 0.01, the
    box is the cell itself.
    """
    row, column = divmod(cell, GRID)
    left, top = column / GRID + 0.01, row / GRID + 0.01
    return tuple(round(value, 2) for value in (left, top, left + 0.23, top + 0.23))


CELL_BOXES = tuple(cell_box(cell) for cell in range(GRID * GRID))


@functools.cache
def _box_pixels(digit: int) -> np.ndarray:
    """uint8 [BOX, BOX]: 0 for the box's colour, 1 and 2 for its darker and lighter checks."""
    # Half a check at both ends of a period: with no slope either, its residual at the end of a stroke all but vanishes.
    wave = np.repeat([1, -1, -1, 1], TILE // 4)
    tile = np.where(np.outer(wave, wave) < 0, 1, 2).astype(np.uint8)
    dots = np.array([[int(dot) for dot in row] for row in _GLYPHS[digit]], np.uint8)
    mask = np.kron(dots, np.ones(_DOT, np.uint8))
    top, left = ((BOX - size) // 2 for size in mask.shape)
    pixels = np.zeros((BOX, BOX), np.uint8)
    pixels[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return pixels * np.tile(tile, (BOX // TILE, BOX // TILE))


def draw(boxes: list[tuple[int, int, tuple[int, int, int], int]], background: int) -> Image.Image:
    """Draws a canvas of CANVAS x CANVAS pixels.

    Args:
      boxes: (left, top, colour, digit) of each box, in pixels.
      background: its grey level.

    Returns:
      A palette image, which takes a third of the memory of RGB and is small as PNG.
    """
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    palette = [(background,) * 3]
    for left, top, color, digit in boxes:
        canvas[top : top + BOX, left : left + BOX] = _box_pixels(digit) + len(palette)
        palette += [tuple(value + shift for value in color) for shift in (0, -CONTRAST, CONTRAST)]
    image = Image.fromarray(canvas)
    image.putpalette(np.array(palette, np.uint8).tobytes())
    return image


@dataclasses.dataclass(frozen=True)
class PixelSearch:
    """The world as a source of seeds; seed `i` is determined by (seed, split, i, favoured).

    Attributes:
      count: number of seeds.
      split: one of `SPLITS`; no two splits share random numbers.
      seed: of the world.
      favoured: probability of a colour's favoured digit; the other five share the rest. None for uniform digits.

    Raises:
      UserError: an unknown split, or `favoured` is no probability.
    """

    count: int
    split: str = "sft"
    seed: int = 0
    favoured: float | None = 0.45

    def __post_init__(self):
        if self.split not in SPLITS:
            raise UserError(f"unknown split {self.split!r} of the pixel-search world, expected one of {SPLITS}")
        if self.favoured is not None and not 0 <= self.favoured <= 1:
            raise UserError(f"favoured is a probability, got {self.favoured}")

    def __len__(self) -> int:
        return self.count

    def id(self, index: int) -> str:
        """The id of a seed, which is not drawn for it."""
        return f"pixel-search-{self.seed}-{self.split}-{index:06d}"

    def __getitem__(self, index: int) -> Seed:
        if not 0 <= index < self.count:
            raise IndexError(f"seed {index} of {self.count}")
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        cells = rng.permutation(GRID * GRID)[:3]
        color = int(rng.integers(len(COLORS)))
        digits = rng.integers(DIGITS, size=3)
        digits[0] = self._digit(color, rng)
        offsets = rng.choice(OFFSETS, size=(3, 2))
        background = int(rng.integers(224, 256))

        corners = [
            (int(c % GRID * CELL + x), int(c // GRID * CELL + y)) for c, (x, y) in zip(cells, offsets, strict=True)
        ]
        colors = (tuple(COLORS.values())[color], GREY, GREY)
        image = draw([(*corner, c, int(d)) for corner, c, d in zip(corners, colors, digits, strict=True)], background)
        left, top = corners[0]
        return Seed(
            id=self.id(index),
            question=QUESTION,
            answer=str(digits[0]),
            images=(image,),
            cue=CELL_BOXES[cells[0]],
            candidates=CELL_BOXES,
            attributes={
                "color": tuple(COLORS)[color],
                "cell": int(cells[0]),
                "pixel_box": (left, top, left + BOX, top + BOX),
                "prior_answer": str(color),
            },
        )

    def _digit(self, color: int, rng: np.random.Generator) -> int:
        if self.favoured is None:
            return int(rng.integers(DIGITS))
        probabilities = np.full(DIGITS, (1 - self.favoured) / (DIGITS - 1))
        probabilities[color] = self.favoured
        return int(rng.choice(DIGITS, p=probabilities))


def endless(split: str) -> PixelSearch:
    """A split as a source of `ENDLESS` seeds."""
    return PixelSearch(ENDLESS, split)
