"""Solving a jigsaw puzzle: `swap_tiles`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from PIL import Image

from pixel_reasoner_jax.operations.arguments import check_index, check_names, signature
from pixel_reasoner_jax.operations.base import Box, MediaState, Operation, Result, bounded, edited
from pixel_reasoner_jax.operations.calls import OperationError


@dataclasses.dataclass(frozen=True)
class SwapTiles(Operation):
    """Exchanges two tiles of the image that was shown last, which is the puzzle as it stands.

    Tiles are numbered from 1, row by row. They are of equal size, whole pixels; columns and rows of pixels that are
    left over at the right and at the bottom stay where they are.

    Attributes:
      name, aliases: see `Operation`.
      rows, columns: of the puzzle.
    """

    name: str = "swap_tiles"
    aliases: tuple[str, ...] = ("swap",)
    rows: int = 2
    columns: int = 2
    arguments = ("first", "second")
    phrase = "swap tiles {first} and {second}"

    def describe(self, state: MediaState) -> dict[str, Any]:
        tiles = self.rows * self.columns
        number = {"type": "integer", "description": f"A tile's number, from 1 to {tiles}, row by row."}
        text = f"Exchange two tiles of the last image, which has {self.rows} rows and {self.columns} columns of them."
        return signature(self.name, text, {"first": number, "second": number})

    def example(self, state: MediaState) -> dict[str, Any] | None:
        return {"first": 1, "second": self.rows * self.columns} if state.pictures else None

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        check_names(arguments, self.arguments)
        last = self.rows * self.columns
        first, second = (check_index(name, arguments[name], 1, last, "tiles") for name in self.arguments)
        if first == second:
            raise OperationError(f"first and second must be two tiles, not {first} twice")
        if not state.pictures:
            raise OperationError("there is no image to change")
        source = len(state.pictures) - 1
        image = bounded(state.pictures[source])
        if image.size[0] < self.columns or image.size[1] < self.rows:
            raise OperationError("there is no image to change: the last one has fewer pixels than tiles")
        boxes = [self.tile(number, image.size) for number in sorted((first, second))]
        swapped = edited(image, functools.partial(swap, boxes=boxes), f"swap {boxes}")
        return Result([swapped], state.kind_of_edited(source), len(state.images) + 1)

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        return f"\nHere is the image with the two tiles swapped (Image Size: {width}x{height}):"

    def tile(self, number: int, size: tuple[int, int]) -> Box:
        """The box (left, top, right, bottom) of a tile, counted from 1, in an image of `size`."""
        width, height = size[0] // self.columns, size[1] // self.rows
        row, column = divmod(number - 1, self.columns)
        return column * width, row * height, (column + 1) * width, (row + 1) * height


def swap(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """The image with the contents of two boxes of equal size exchanged."""
    first, second = (image.crop(box) for box in boxes)
    image.paste(second, boxes[0])
    image.paste(first, boxes[1])
    return image
