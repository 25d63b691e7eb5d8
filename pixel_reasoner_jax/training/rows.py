"""Assigns sequences to the rows of batches, with few padding tokens, and sequences of one query in one batch.

A batch has a fixed number of rows, and its cost depends on its shape alone, however much of it is padding. So every row
is filled as exactly as the sequences allow, and the last batch of an update, for which too few sequences remain, has
shorter rows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Sequence

ROW_LENGTHS = 8  # number of declared row lengths; the longest is for all batches of an update but the last
LANES = 128  # row lengths are multiples of the hardware's lanes, as attention kernels need
ACCEPTED_PADDING = 1 / 128  # of a row; to pad less, sequences of queries that are further away are not looked at


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """The arrangement of one batch.

    Attributes:
      row_length: tokens in a row.
      rows: for each row that is not empty, the indices of its sequences.
    """

    row_length: int
    rows: list[list[int]]


def arrange(lengths: Sequence[int], groups: Sequence[Hashable], rows: int, row_length: int) -> list[Arrangement]:
    """Assigns sequences to rows, and rows to batches; the result depends on the arguments alone.

    Queries with long sequences come first, so that short ones remain for the rows of the last batch. Each row takes the
    first sequence that has no row yet, and later sequences that fill it: as near in this order as possible, so that the
    samples of a query stay together.

    Args:
      lengths: tokens of each sequence, at most `row_length`.
      groups: the query of each sequence.
      rows: rows of a batch.
      row_length: tokens in the longest row.
    """
    longest: dict[Hashable, int] = {}
    for length, group in zip(lengths, groups, strict=True):
        longest[group] = max(length, longest.get(group, 0))
    rank = {group: number for number, group in enumerate(sorted(longest, key=lambda group: -longest[group]))}
    pending = sorted(range(len(lengths)), key=lambda index: (rank[groups[index]], -lengths[index]))
    steps = range(1, ROW_LENGTHS + 1)
    sizes = sorted({min(-(-row_length * step // (ROW_LENGTHS * LANES)) * LANES, row_length) for step in steps})
    batches = []
    while pending:
        longest_pending, total = max(lengths[index] for index in pending), sum(lengths[index] for index in pending)
        for size in sizes:  # the shortest rows that hold all pending sequences, or else the longest rows
            if size == row_length or (size >= longest_pending and size * rows >= total):
                filled, remaining = _fill_rows(pending, lengths, rows, size)
                if not remaining:
                    break
        batches.append(Arrangement(size, filled))
        pending = remaining
    return batches


def split_by_tokens(lengths: Sequence[int], count: int) -> list[slice]:
    """Splits sequences, in the order given, into `count` slices of about as many tokens each.

    Equal numbers of tokens save time, because all shards of an update wait for the one with the most tokens.
    """
    total, before, counts = sum(lengths), 0, [0] * count
    for length in lengths:
        counts[int((before + length / 2) * count / total)] += 1
        before += length
    ends = list(itertools.accumulate(counts, initial=0))
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def real_share(lengths: Sequence[int], batches: Sequence[Arrangement], rows: int) -> float:
    """The share of the batches' tokens that are real; the others are padding."""
    return sum(lengths) / sum(rows * batch.row_length for batch in batches)


def _fill_rows(pending: list[int], lengths: Sequence[int], rows: int, size: int) -> tuple[list[list[int]], list[int]]:
    """Fills up to `rows` rows of `size` tokens, one after the other.

    Returns:
      The sequences of each row, and the sequences that remain.
    """
    filled = []
    while pending and len(filled) < rows:
        first, *others = pending
        room = size - lengths[first]
        chosen = _fill([lengths[index] for index in others], room, room - int(size * ACCEPTED_PADDING))
        filled.append([first, *(others[position] for position in chosen)])
        taken = set(chosen)
        pending = [index for position, index in enumerate(others) if position not in taken]
    return filled, pending


def _fill(lengths: Sequence[int], room: int, enough: int) -> list[int]:
    """Indices of lengths whose sum is at least `enough` and at most `room`, as near to the front as possible.

    If no sum is large enough, the indices of the largest sum up to `room`. This is the subset-sum problem, solved by
    dynamic programming over bit sets: bit n of `reachable[i]` tells whether some of the first i lengths add up to n.
    """
    reachable = [1]
    for length in lengths:
        if reachable[-1].bit_length() > enough:
            break
        reachable.append((reachable[-1] | reachable[-1] << length) & ((2 << room) - 1))
    total = reachable[-1].bit_length() - 1
    chosen = []
    for index in reversed(range(len(reachable) - 1)):
        if not reachable[index] >> total & 1:  # the lengths before this one do not add up to `total`
            chosen.append(index)
            total -= lengths[index]
    return chosen[::-1]
