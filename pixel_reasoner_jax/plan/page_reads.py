"""The pages that decoding reads, as they follow from the tables of pages that it gets (`models.cache`).

TPU's kernel reads the pages of each row, those of its prompt too, in blocks of some pages, each of them whole, whatever
of it holds tokens. A row that is not sampled reads one block. A block is multiplied with the queries of all rows that
the kernel has at work, not of its own row alone. Elsewhere the pages are listed once a call, for as many tokens as it
may sample: a shared page once for every few responses that read it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pixel_reasoner_jax.models.cache import KERNEL_PAGES, KERNEL_QUERIES, KERNEL_ROWS, SHARING
from pixel_reasoner_jax.rollout.capacity import PAGE, pages_of


@dataclasses.dataclass(frozen=True)
class KernelReads:
    """How TPU's kernel reads.

    Attributes:
      block: pages that it reads at a time.
      queries: rows whose queries are at work at a time in decoding.
    """

    block: int = KERNEL_PAGES
    queries: int = KERNEL_ROWS

    def decode(
        self, lengths: np.ndarray, taken: np.ndarray, full: np.ndarray, groups: np.ndarray, steps: int, most: int
    ) -> np.ndarray:
        """Pages that are read for responses in a call; see `ListedReads.decode`."""
        del full, groups, steps, most

        def up_to(tokens: np.ndarray) -> np.ndarray:
            """Blocks that the first `tokens` tokens have read: 1 for each of the first block, 2 for the second, …"""
            size = PAGE * self.block
            blocks, rest = np.divmod(tokens, size)
            return size * blocks * (blocks + 1) // 2 + rest * (blocks + 1)

        return self.block * (up_to(lengths + taken) - up_to(lengths))

    def idle(self, rows: np.ndarray) -> np.ndarray:
        """Pages that are read for so many rows, over all steps, that no token is sampled in."""
        return self.block * rows

    def extend(self, before: int, tokens: int) -> int:
        """Pages that are read to append tokens to others: anew for every block of queries."""
        blocks = -(-pages_of(before + tokens) // self.block)
        return -(-tokens // KERNEL_QUERIES) * blocks * self.block


@dataclasses.dataclass(frozen=True)
class ListedReads:
    """How pages are read by XLA's operations."""

    queries: int = 1

    def decode(
        self, lengths: np.ndarray, taken: np.ndarray, full: np.ndarray, groups: np.ndarray, steps: int, most: int
    ) -> np.ndarray:
        """Pages that are read for responses in a call.

        Args:
          lengths: tokens of each response before.
          taken: tokens sampled for it, one in a step.
          full: full pages of its prompt, which its group shares.
          groups: the group of each.
          steps: of the call.
          most: tokens that the call may sample for a response.

        Returns:
          The pages of each response, summed over the steps; what is shared counts for the group's first response.
        """
        read = pages_of(lengths + most) - full
        _, first, members = np.unique(groups, return_index=True, return_counts=True)
        read[first] += full[first] * -(-members // SHARING)
        return steps * read

    def idle(self, rows: np.ndarray) -> np.ndarray:
        return 0 * rows

    def extend(self, before: int, tokens: int) -> int:
        return pages_of(before + tokens)


Reads = KernelReads | ListedReads
