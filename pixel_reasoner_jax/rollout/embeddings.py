"""The table of image embeddings on the devices, and which of its rows hold which image: each is encoded once."""

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
      allocators: of the rows in each part of the mesh that this process feeds.
    """

    array: Array
    allocators: list[RowAllocator]

    def __contains__(self, key: Hashable) -> bool:
        """Whether an image need not be encoded, wherever its query goes."""
        return all(key in allocator for allocator in self.allocators)


class RowAllocator:
    """Which rows of a part of the table hold which image; the least recently used images give up theirs.

    Attributes:
      size: rows of the part.
    """

    def __init__(self, size: int):
        self._rows: collections.OrderedDict[Hashable, np.ndarray] = collections.OrderedDict()
        self._free = list(range(size - 1, -1, -1))
        self.size = size

    def __contains__(self, key: Hashable) -> bool:
        return key in self._rows

    def find(self, key: Hashable) -> np.ndarray | None:
        """int32 [tokens], the rows that hold an image's embeddings; None if none do."""
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def reserve(self, key: Hashable, count: int, keep: Container[Hashable]) -> np.ndarray:
        """Rows for an image of `count` tokens, int32 [count]; images not used for longest give up theirs.

        Args:
          keep: images whose rows are not given up.

        Raises:
          ValueError: no room beside the images to keep.
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
