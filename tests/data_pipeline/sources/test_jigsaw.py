"""Puzzles: the tiles are where the query says, and exchanging them gives the image back."""

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.jigsaw import Jigsaw
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import MediaState
from pixel_reasoner_jax.operations.swap import SwapTiles
from pixel_reasoner_jax.query import check_query


@pytest.mark.parametrize("rows, columns", [(2, 2), (3, 3), (1, 2)])
def test_exchanges_solve_a_puzzle(rows, columns):
    pixels = np.random.default_rng(0).integers(0, 256, (31, 43, 3), np.uint8)
    source = Jigsaw([Image.fromarray(pixels)] * 8, rows, columns)
    operation = SwapTiles(rows=rows, columns=columns)
    for query in source:
        check_query(query, scored=True)
        state, tiles = MediaState.from_query(query["images"]), query["tiles"]
        assert tiles != sorted(tiles) and sorted(tiles) == list(range(1, rows * columns + 1))
        assert [tiles[int(place) - 1] for place in query["answer"]] == sorted(tiles)
        for place in range(1, len(tiles) + 1):
            if (wrong := tiles.index(place) + 1) != place:
                state.append(operation.run({"first": place, "second": wrong}, state))
                tiles[place - 1], tiles[wrong - 1] = tiles[wrong - 1], tiles[place - 1]
        assert (np.asarray(state.images[-1]) == pixels).all()
    assert source[0]["tiles"] == Jigsaw(source.images, rows, columns)[0]["tiles"] and len(source) == 8
    assert rows * columns == 2 or len({tuple(query["tiles"]) for query in source}) > 1


def test_mistakes():
    for rows, columns in ((1, 1), (4, 3), (0, 5)):
        with pytest.raises(UserError, match="2 to 9 tiles"):
            Jigsaw([], rows, columns)
    with pytest.raises(UserError, match="no tiles"):
        Jigsaw([Image.new("RGB", (1, 9))])[0]
    with pytest.raises(IndexError):
        Jigsaw([])[0]
