"""Jigsaw puzzles of any images, as queries of `rl`: tiles are shuffled, and exchanged until the picture is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.swap import SwapTiles
from pixel_reasoner_jax.processing.loading import ImageSource, load_image

MOST_TILES = 9  # each has a digit of its own in the answer


@dataclasses.dataclass(frozen=True)
class Jigsaw(Sequence[dict[str, Any]]):
    """A puzzle of every image; puzzle `i` is determined by the image and (seed, i).

    A query has, besides the shuffled image, `tiles`: for every place, row by row, the number from 1 of the place where
    its tile belongs. Its answer is the order in which the tiles, by their places, make the right picture: "2143".

    Attributes:
      images: anything that `processing.load_image` takes.
      rows, columns: of the puzzles; 2 to 9 tiles.
      seed: of the orders, of which none is the right one.

    Raises:
      UserError: there are fewer or more tiles.
    """

    images: Sequence[ImageSource]
    rows: int = 2
    columns: int = 2
    seed: int = 0

    def __post_init__(self):
        if min(self.rows, self.columns) < 1 or not 2 <= self.rows * self.columns <= MOST_TILES:
            raise UserError(f"a puzzle has 2 to {MOST_TILES} tiles, not {self.rows} rows and {self.columns} columns")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"puzzle {index} of {len(self)}")
        rng, count = np.random.default_rng((self.seed, index)), self.rows * self.columns
        tiles = np.arange(count)
        while (tiles == np.arange(count)).all():
            tiles = rng.permutation(count)
        image = load_image(self.images[index])
        if image.width < self.columns or image.height < self.rows:
            raise UserError(f"image {index} of {image.width}x{image.height} pixels has no tiles")
        puzzle, grid = image.copy(), SwapTiles(rows=self.rows, columns=self.columns)
        for place, tile in enumerate(tiles.tolist(), 1):
            puzzle.paste(image.crop(grid.tile(tile + 1, image.size)), grid.tile(place, image.size))
        return {
            "id": f"jigsaw-{self.seed}-{index:06d}",
            "question": (
                f"The picture was cut into {self.rows} rows and {self.columns} columns of tiles, which were shuffled."
                " Exchange tiles until it is right. Then answer with the numbers that the tiles have now, row by row"
                " from 1, in the order that makes the right picture, such as 2143."
            ),
            "answer": "".join(map(str, (np.argsort(tiles) + 1).tolist())),
            "images": [puzzle],
            "tiles": (tiles + 1).tolist(),
        }
