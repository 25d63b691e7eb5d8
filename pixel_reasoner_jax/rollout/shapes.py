"""The declared shapes of a rollout's compiled programs. They are few, so that few programs are compiled.

The shape of the call that processes an image or a text depends on the size of this image or text alone, and each has a
row of the call to itself. So the other images and texts of a call cannot change its numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from jax.sharding import Mesh

from pixel_reasoner_jax.buckets import bucket
from pixel_reasoner_jax.models.attention import platform_of
from pixel_reasoner_jax.models.cache import SHARING, most_listed, page_size
from pixel_reasoner_jax.processing import Budgets, Geometry, grid_patches
from pixel_reasoner_jax.processing.geometry import MAX_ASPECT_RATIO

SAVED_PAGES = 16  # pages that a call brings to the host or back
WIDTH_MULTIPLE = 32  # widths of an extend, in tokens, are multiples of this
CHUNK = 512  # the most tokens in a row of an extend: more are appended in several calls

# The most tokens in all rows of an extend, and patches in all rows of an encode, unless one row alone has more. A CPU
# takes as long for a row that holds nothing as for another; elsewhere a few small rows take hardly longer than one.
EXTEND_TOKENS, ENCODE_PATCHES = {"cpu": 128}, {"cpu": 256}
DEFAULT_EXTEND_TOKENS, DEFAULT_ENCODE_PATCHES = 256, 1024
MOST_ROWS = DEFAULT_EXTEND_TOKENS // WIDTH_MULTIPLE  # of an extend, where there are as many slots

TABLE_ROWS = 16_384  # the least rows of the table of image embeddings in a part of the mesh
CHUNK_SLOTS = 64  # with so many slots or more, decoding reads the most pages at a time
FORK_FACTOR = 4  # the declared numbers of forks in a call grow by this factor


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The declared sizes, all of them in one part of the mesh.

    Attributes:
      slots: responses in flight, those included that wait.
      length: tokens that a slot holds at most, prompt included.
      page: tokens of a page of the cache, a divisor of `length`.
      pages: of the cache, for all slots together.
      geometry: sizes of the vision tower.
      budgets: tokens of images, from which the size of the largest image follows.
      most_chunk: see `chunk`.
      extend_tokens: the most tokens in all rows of an extend, unless one row alone has more.
      encode_patches: the most patches in all rows of an encode, likewise.
    """

    slots: int
    length: int
    page: int
    pages: int
    geometry: Geometry
    budgets: Budgets
    most_chunk: int
    extend_tokens: int = DEFAULT_EXTEND_TOKENS
    encode_patches: int = DEFAULT_ENCODE_PATCHES

    @classmethod
    def holding(
        cls,
        slots: int,
        length: int,
        geometry: Geometry,
        budgets: Budgets,
        *,
        page: int,
        most_chunk: int,
        extend_tokens: int = DEFAULT_EXTEND_TOKENS,
        encode_patches: int = DEFAULT_ENCODE_PATCHES,
        cache_tokens: int | None = None,
    ) -> Shapes:
        """The smallest declared shapes with room for `slots` responses of `length` tokens, prompt included.

        Args:
          page: tokens of a page; fewer where no response is as long.
          most_chunk, extend_tokens, encode_patches: see the class; what a platform wants, `platform_units` says.
          cache_tokens: that the cache holds; None: enough for `slots` responses of the greatest length. It always holds
            two of the greatest length, so that one can go on while the prompt of another stays.
        """
        longest, slots = length, bucket(slots)
        page = min(page, bucket(length, WIDTH_MULTIPLE))
        length = bucket(length, page)
        pages = slots * (length // page) if cache_tokens is None else -(-cache_tokens // page)
        # One more is for the end of a prompt of which responses are still to begin.
        pages = max(pages, 2 * -(-longest // page)) + 1
        return cls(slots, length, page, pages, geometry, budgets, most_chunk, extend_tokens, encode_patches)

    @property
    def slot_pages(self) -> int:
        """Pages of the longest response."""
        return self.length // self.page

    @property
    def chunk(self) -> int:
        """Pages that decoding reads at a time: fewer for few slots, `most_chunk` at most."""
        return min(self.most_chunk, max(8, self.slots * self.most_chunk // CHUNK_SLOTS))

    @property
    def items(self) -> int:
        """The most pages that `models.cache.Reads` list, in whole chunks: one of many readers is listed again."""
        most = self.pages + self.slots * self.slot_pages // SHARING
        return (-(-most // self.chunk) + 1) * self.chunk  # what is shared ends with a chunk

    @property
    def table(self) -> int:
        """Rows of the embedding table: the images of one prompt fit, since they need no more than its tokens."""
        return max(TABLE_ROWS, self.length)

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """The declared widths of an extend: tokens in a row, ascending."""
        return _buckets(min(CHUNK, bucket(self.length, WIDTH_MULTIPLE)), WIDTH_MULTIPLE)

    def width(self, tokens: int) -> int:
        """The smallest declared width with room for `tokens`, which are `CHUNK` at most."""
        return next(width for width in self.widths if width >= tokens)

    def rows(self, width: int) -> int:
        """Rows of an extend of this width."""
        return max(1, min(self.slots, self.extend_tokens // width))

    @functools.cached_property
    def patches(self) -> tuple[int, ...]:
        """The declared row lengths of an encode, in patches, ascending; an image takes one row."""
        sides = self.geometry.window_tokens
        most = max(_most_blocks(self.budgets.of(kind)[1], sides) for kind in ("image", "crop", "frame"))
        pairs = -(-self.budgets.video_frames // self.geometry.temporal_patch_size)
        most = max(most, pairs * _most_blocks(self.budgets.of("video")[1], sides))
        return _buckets(bucket(most) * self.geometry.window_patches, self.geometry.window_patches)

    def images(self, length: int) -> int:
        """Rows of an encode whose rows have `length` patches; each row holds one image."""
        return max(1, self.encode_patches // length)

    @functools.cached_property
    def forks(self) -> tuple[int, ...]:
        """The declared numbers of forks in a call, ascending."""
        counts = [1]
        while counts[-1] < self.slots:
            counts.append(min(FORK_FACTOR * counts[-1], self.slots))
        return tuple(counts)


def platform_units(mesh: Mesh | None) -> dict[str, int]:
    """What `Shapes.holding` takes besides sizes, as the devices of a mesh want it; None is JAX's default platform."""
    platform = platform_of(mesh)
    return dict(
        page=page_size(mesh),
        most_chunk=most_listed(mesh),
        extend_tokens=EXTEND_TOKENS.get(platform, DEFAULT_EXTEND_TOKENS),
        encode_patches=ENCODE_PATCHES.get(platform, DEFAULT_ENCODE_PATCHES),
    )


def row_patches(grid: tuple[int, int, int], geometry: Geometry) -> int:
    """Patches in the row that an image or video of this grid, (frames, rows, columns) of patches, is encoded in."""
    return bucket(grid_patches(grid, geometry), geometry.window_patches)


def _buckets(last: int, unit: int) -> tuple[int, ...]:
    """The buckets of `unit`, from the smallest to the first that is at least `last`."""
    sizes = [unit]
    while sizes[-1] < last:
        sizes.append(bucket(sizes[-1] + 1, unit))
    return tuple(sizes)


def _most_blocks(tokens: int, side: int) -> int:
    """The most blocks of `side` x `side` tokens that `vision_layout` can need for a frame of `tokens` tokens."""

    def blocks(rows: int, columns: int) -> int:
        """An upper bound: the partial windows of a border share blocks with windows of the same border alone."""
        (down, low), (across, narrow) = divmod(rows, side), divmod(columns, side)
        bottom = -(-across // (side // low)) if low else 0
        right = -(-down // (side // narrow)) if narrow else 0
        return down * across + bottom + right + bool(low and narrow)

    # Sides are rounded to tokens: an image of the largest aspect ratio may be almost one token higher than its rows.
    shapes = ((rows, min(tokens // rows, MAX_ASPECT_RATIO * (rows + 1))) for rows in range(1, math.isqrt(tokens) + 1))
    return max(blocks(*shape) for shape in shapes)
