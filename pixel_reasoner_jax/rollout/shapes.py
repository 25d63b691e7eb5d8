"""The shapes a rollout's compiled programs have: few, declared, and for every image and text the same in any company.

What shares a call with a sequence never changes the shape of its own part, so it cannot change its numbers either:
an image has a row to itself in a call whose rows are as long, and as many, as its own size asks for, and so has an
addition to a slot.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from pixel_reasoner_jax.buckets import bucket
from pixel_reasoner_jax.models.attention import BLOCK
from pixel_reasoner_jax.processing import Budgets, Geometry, grid_patches
from pixel_reasoner_jax.processing.geometry import MAX_ASPECT_RATIO

TOKENS = 32  # widths of an extend come in multiples of this
CHUNK = 512  # tokens of a row of an extend: longer additions are cut
CALL = 256  # tokens of an extend of several rows
PATCHES = 1024  # of images encoded together; larger ones go alone
TABLE = 16_384  # embeddings of images that the device keeps, at least
FORKS = 4  # numbers of forks in a call grow by this factor


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Declared sizes.

    Attributes:
      slots: responses in flight.
      length: tokens a slot holds, prompt included.
      geometry: of the vision tower.
      budgets: tokens of images; they say how large the largest can be.
    """

    slots: int
    length: int
    geometry: Geometry
    budgets: Budgets

    @classmethod
    def holding(cls, slots: int, length: int, geometry: Geometry, budgets: Budgets) -> Shapes:
        """The smallest declared ones with room for so many responses of so many tokens."""
        length = bucket(length, TOKENS if length < BLOCK else BLOCK)
        return cls(bucket(slots), length, geometry, budgets)

    @property
    def table(self) -> int:
        """Embeddings in the table: no prompt's images need more than its tokens."""
        return max(TABLE, self.length)

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Tokens in a row of an extend."""
        return _buckets(min(CHUNK, bucket(self.length, TOKENS)), TOKENS)

    def width(self, tokens: int) -> int:
        """That of an addition of at most `CHUNK` tokens."""
        return next(width for width in self.widths if width >= tokens)

    def rows(self, width: int) -> int:
        """Rows of an extend of this width."""
        return max(1, min(self.slots, CALL // width))

    @functools.cached_property
    def patches(self) -> tuple[int, ...]:
        """Patches in a row of an encode, one row for an image."""
        sides = self.geometry.window_tokens
        most = max(_most_blocks(self.budgets.of(kind)[1], sides) for kind in ("image", "crop", "frame"))
        pairs = -(-self.budgets.video_frames // self.geometry.temporal_patch_size)
        most = max(most, pairs * _most_blocks(self.budgets.of("video")[1], sides))
        return _buckets(bucket(most) * self.geometry.window_patches, self.geometry.window_patches)

    def images(self, length: int) -> int:
        """Rows, and so images, of an encode whose rows have this length."""
        return max(1, PATCHES // length)

    @functools.cached_property
    def forks(self) -> tuple[int, ...]:
        """Numbers of forks in a call."""
        counts = [1]
        while counts[-1] < self.slots:
            counts.append(min(FORKS * counts[-1], self.slots))
        return tuple(counts)


def row_patches(grid: tuple[int, int, int], geometry: Geometry) -> int:
    """Length of the row that an image or video of this grid is encoded in."""
    return bucket(grid_patches(grid, geometry), geometry.window_patches)


def _buckets(last: int, unit: int) -> tuple[int, ...]:
    """Every bucket up to the one that holds `last`."""
    sizes = [unit]
    while sizes[-1] < last:
        sizes.append(bucket(sizes[-1] + 1, unit))
    return tuple(sizes)


def _most_blocks(tokens: int, side: int) -> int:
    """The most blocks of `side` x `side` tokens that a frame of so many tokens can need; see `vision_layout`."""

    def blocks(rows: int, columns: int) -> int:
        """At most: as if windows at one border, which are `side` long, shared blocks with nothing else."""
        (down, low), (across, narrow) = divmod(rows, side), divmod(columns, side)
        bottom = -(-across // (side // low)) if low else 0
        right = -(-down // (side // narrow)) if narrow else 0
        return down * across + bottom + right + bool(low and narrow)

    # Sides are rounded: an image of the longest shape allowed may be almost a token lower than its length says.
    shapes = ((rows, min(tokens // rows, MAX_ASPECT_RATIO * (rows + 1))) for rows in range(1, math.isqrt(tokens) + 1))
    return max(blocks(*shape) for shape in shapes)
