"""Which image's embeddings stand where in the device's table: every distinct image is encoded once."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Container, Hashable

import numpy as np
from jaxtyping import Array


@dataclasses.dataclass
class EmbeddingTable:
    """A table of image embeddings on the devices.

    Attributes:
      array: [rows of all parts, width]; to be replaced by what `Engine.encode` returns for it.
      places: what stands where in each part of the mesh that is this process's.
    """

    array: Array
    places: list[Places]

    def __contains__(self, key: Hashable) -> bool:
        """Whether an image need not be encoded, wherever its query goes."""
        return all(key in places for places in self.places)


class Places:
    """What stands where in a part of the table: a least-recently-used cache of its rows.

    Attributes:
      size: rows of the part.
    """

    def __init__(self, size: int):
        self._places: collections.OrderedDict[Hashable, np.ndarray] = collections.OrderedDict()
        self._free = list(range(size - 1, -1, -1))
        self.size = size

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def find(self, key: Hashable) -> np.ndarray | None:
        """int32 [tokens], where an image's embeddings stand; None where they do not."""
        if key in self._places:
            self._places.move_to_end(key)
        return self._places.get(key)

    def reserve(self, key: Hashable, count: int, keep: Container[Hashable]) -> np.ndarray:
        """Rows for an image of `count` tokens, int32 [count]; images not used for longest give up theirs.

        Args:
          keep: images whose rows are not given up.

        Raises:
          ValueError: no room beside the images to keep.
        """
        for old in [old for old in self._places if old not in keep]:
            if len(self._free) >= count:
                break
            self._free.extend(self._places.pop(old).tolist())
        if len(self._free) < count:
            raise ValueError(f"{count} embeddings do not fit into a table of {self.size} beside those that must stay")
        places = np.array([self._free.pop() for _ in range(count)], np.int32)
        self._places[key] = places
        return places
