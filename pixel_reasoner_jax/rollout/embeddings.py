"""The table of image embeddings on the devices: an image whose rows are still in the table is not encoded again."""

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
      array: [rows of all parts, width]. `Engine.encode` donates it: assign what that returns.
      allocators: for each part of the mesh that this process feeds, which of the part's rows hold which image.
    """

    array: Array
    allocators: list[RowAllocator]

    def __contains__(self, key: Hashable) -> bool:
        """Whether all parts that this process feeds hold an image: then it is not encoded, whichever part is next."""
        return all(key in allocator for allocator in self.allocators)


class RowAllocator:
    """Allocates the table's rows in one part of the mesh to images; evicts the least recently used images.

    Attributes:
      size: rows of the table in the part.
    """

    def __init__(self, size: int):
        self._rows: collections.OrderedDict[Hashable, np.ndarray] = collections.OrderedDict()
        self._free = list(range(size - 1, -1, -1))
        self.size = size

    def __contains__(self, key: Hashable) -> bool:
        return key in self._rows

    def find(self, key: Hashable) -> np.ndarray | None:
        """The rows that hold an image's embeddings, int32 [its tokens]; None if the table does not hold it."""
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def reserve(self, key: Hashable, count: int, keep: Container[Hashable]) -> np.ndarray:
        """Allocates rows to an image, int32 [count]; evicts the least recently used images until enough rows are free.

        Args:
          key: of the image.
          count: its tokens.
          keep: keys of images that are not evicted.

        Raises:
          ValueError: there are too few rows beside those of the images in `keep`.
        """
        for old in [old for old in self._rows if old not in keep]:
            if len(self._free) >= count:
                break
            self._free.extend(self._rows.pop(old).tolist())
        if len(self._free) < count:
            raise ValueError(f"{count} embeddings do not fit into a table of {self.size} beside those that must stay")
        rows = np.array([self._free.pop() for _ in range(count)], np.int32)
        self._rows[key] = rows
        return rows
