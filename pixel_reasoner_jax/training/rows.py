"""Which sequence goes into which row of which batch: few padding tokens, and neighbours where they can share an image.

A batch has a fixed number of rows, and its cost is that of its shape, real tokens or not. So every row is filled as
exactly as its sequences allow, and the last batch of an update, which the rest would not fill, has shorter rows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Sequence

LENGTHS = 8  # a row is one of so many lengths, of which all batches but the last have the longest
LANES = 128  # of the hardware: lengths of rows are multiples, as attention kernels want them
ENOUGH = 1 / 128  # of a row that may stay empty before sequences of queries further away are taken to fill it


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """One batch.

    Attributes:
      row_length: tokens of a row.
      rows: the sequences of every row, as indices; rows that nothing was left for are not among them.
    """

    row_length: int
    rows: list[list[int]]


def arrange(lengths: Sequence[int], groups: Sequence[Hashable], rows: int, row_length: int) -> list[Arrangement]:
    """Lays sequences side by side in rows, and rows in batches; depends on the arguments alone.

    Queries with long sequences come first, so that short ones are left to fill the rows of the last batch. Each row
    takes the first sequence left and, of those after it, the ones that fill it: as near in the order as possible, so
    that the samples of a query stay together.

    Args:
      lengths: tokens of each sequence, none longer than `row_length`.
      groups: the query of each sequence.
      rows: of a batch.
      row_length: the longest row, in tokens.
    """
    longest: dict[Hashable, int] = {}
    for length, group in zip(lengths, groups, strict=True):
        longest[group] = max(length, longest.get(group, 0))
    rank = {group: number for number, group in enumerate(sorted(longest, key=lambda group: -longest[group]))}
    left = sorted(range(len(lengths)), key=lambda index: (rank[groups[index]], -lengths[index]))
    steps = range(1, LENGTHS + 1)
    sizes = sorted({min(-(-row_length * step // (LENGTHS * LANES)) * LANES, row_length) for step in steps})
    batches = []
    while left:
        most, total = max(lengths[index] for index in left), sum(lengths[index] for index in left)
        for size in sizes:  # the shortest rows that hold all that is left, or else the longest ones
            if size == row_length or (size >= most and size * rows >= total):
                filled, rest = _fill_rows(left, lengths, rows, size)
                if not rest:
                    break
        batches.append(Arrangement(size, filled))
        left = rest
    return batches


def split_by_tokens(lengths: Sequence[int], count: int) -> list[slice]:
    """Splits sequences, in the order given, into `count` runs of about as many tokens each.

    Where several shards update together, all go as far as the one with most tokens.
    """
    total, before, runs = sum(lengths), 0, [0] * count
    for length in lengths:
        runs[int((before + length / 2) * count / total)] += 1
        before += length
    ends = list(itertools.accumulate(runs, initial=0))
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def real_share(lengths: Sequence[int], batches: Sequence[Arrangement], rows: int) -> float:
    """The share of the batches' tokens that are real; the others are padding."""
    return sum(lengths) / sum(rows * batch.row_length for batch in batches)


def _fill_rows(left: list[int], lengths: Sequence[int], rows: int, size: int) -> tuple[list[list[int]], list[int]]:
    """Fills up to `rows` rows in turn; returns them, and what is left."""
    filled = []
    while left and len(filled) < rows:
        first, *others = left
        room = size - lengths[first]
        chosen = _fill([lengths[index] for index in others], room, room - int(size * ENOUGH))
        filled.append([first, *(others[place] for place in chosen)])
        taken = set(chosen)
        left = [index for place, index in enumerate(others) if place not in taken]
    return filled, left


def _fill(lengths: Sequence[int], room: int, enough: int) -> list[int]:
    """Places of lengths that add up to at least `enough` and at most `room`, as near to the front as possible.

    If there are none, those that add up to most. A subset sum: bit n of a number tells whether n tokens can be reached.
    """
    reachable = [1]
    for length in lengths:
        if reachable[-1].bit_length() > enough:
            break
        reachable.append((reachable[-1] | reachable[-1] << length) & ((2 << room) - 1))
    total = reachable[-1].bit_length() - 1
    chosen = []
    for place in reversed(range(len(reachable) - 1)):
        if not reachable[place] >> total & 1:  # not to be reached with those before it alone
            chosen.append(place)
            total -= lengths[place]
    return chosen[::-1]
