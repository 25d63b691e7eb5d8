"""Pages that decoding reads, held to tables of pages that are written out by hand."""

import numpy as np
import pytest

from pixel_reasoner_jax.models.cache import KERNEL_QUERIES, SHARING
from pixel_reasoner_jax.plan.page_reads import KernelReads, ListedReads
from pixel_reasoner_jax.rollout.capacity import PAGE

# Two groups: a prompt of one full page, page 0, and one of two, pages 4 and 5. Of the second group one is not sampled.
LENGTHS, TAKEN = np.array([130, 256, 300]), np.array([2, 1, 3])
FULL, GROUPS = np.array([1, 1, 2]), np.array([0, 0, 1])
TABLES = [
    [[0, 1], [0, 2, 3], [4, 5, 6]],  # 131, 257 and 301 tokens
    [[0, 1], [4, 5, 6]],  # 132, 302
    [[4, 5, 6]],  # 303
]


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_kernel_reads_blocks_of_each_rows_pages(block):
    reads = KernelReads(block)
    read = reads.decode(LENGTHS, TAKEN, FULL, GROUPS, steps=3, most=32)
    by_hand = [block * -(-len(row) // block) for table in TABLES for row in table]
    assert read.sum() == sum(by_hand)
    # Four slots in three steps: six of the rows are sampled, the six others read a block each.
    assert reads.idle(np.array([4 * 3 - TAKEN.sum()])).tolist() == [6 * block]


def test_a_single_response_by_hand():
    """From 500 to 520 tokens: twelve times a block of four pages, and eight times two."""
    assert PAGE == 128
    read = KernelReads(4).decode(np.array([500]), np.array([20]), np.array([3]), np.array([0]), 20, 32)
    assert read.tolist() == [12 * 4 + 8 * 8]


def test_what_is_listed_is_read_in_every_step():
    """As for a call of up to 32 tokens: pages 0, 1, 2 and 3, and 4, 5 and 6; 288 tokens take three pages."""
    read = ListedReads().decode(LENGTHS, TAKEN, FULL, GROUPS, steps=3, most=32)
    assert read.sum() == 3 * len({page for row in TABLES[0] for page in row})
    assert ListedReads().idle(np.array([7])).tolist() == [0]


def test_a_page_with_many_readers_is_listed_again():
    count = SHARING + 1
    read = ListedReads().decode(
        np.full(count, 640), np.full(count, 1), np.full(count, 5), np.zeros(count, int), steps=1, most=1
    )
    assert read.sum() == 2 * 5 + count


def test_appending_reads_the_pages_for_every_block_of_queries():
    reads = KernelReads(4)
    assert reads.extend(0, 128) == 128 // KERNEL_QUERIES * 4
    assert reads.extend(600, 33) == 2 * 8  # five pages are two blocks
    assert ListedReads().extend(600, 33) == 5
