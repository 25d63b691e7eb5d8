"""Processes images and videos into the vision tower's patches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from pixel_reasoner_jax.processing.geometry import Geometry
from pixel_reasoner_jax.processing.pictures import Picture, PictureStore


@dataclasses.dataclass(frozen=True)
class KeptPixels:
    """Makes the pixels of a `Media` that the store of its pictures then keeps while there is room.

    Attributes:
      store, key, pictures, make: see `PictureStore.remember`.
    """

    store: PictureStore
    key: tuple
    pictures: Sequence[Picture]
    make: Callable[[], np.ndarray]

    def __call__(self) -> np.ndarray:
        return self.store.remember(self.key, self.pictures, self.make)

    def find(self) -> np.ndarray | None:
        """The pixels if they are kept now."""
        return self.store.find(self.key)


@dataclasses.dataclass(frozen=True, eq=False)
class Media:
    """A processed image or video.

    Pixels stay 8-bit until they are used, at an eighth of the size of the patches. A `Media` of a `Picture` holds no
    pixels: each time they are used, they come from the picture's store or are made again.

    Attributes:
      kind: "image" or "video".
      source: its `pixels`, or what makes them.
      grid: (t, h, w), in patches.
      size: (width, height) in pixels after resizing.
      normalization: float32 [channels, 256], the value of every 8-bit level.
      merge_size: side of a merge group, in patches.
      temporal_patch_size: frames in a patch.
      second_per_grid: seconds between temporal grid frames of a video; 0 for an image.
      key: equal for equal pixels from one processor; None if they were not made of pictures.
    """

    kind: str
    source: np.ndarray | Callable[[], np.ndarray] = dataclasses.field(repr=False)
    grid: tuple[int, int, int]
    size: tuple[int, int]
    normalization: np.ndarray = dataclasses.field(repr=False)
    merge_size: int = 2
    temporal_patch_size: int = 2
    second_per_grid: float = 0.0
    key: str | None = None

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of every patch, uint8 [t*h*w, channels, frames, patch*patch]; not to be changed.

        `frames` is 1 for an image (its patches repeat it) and the temporal patch size for a video. Patches are in
        transformers' order: by frame, then by merge group.

        Raises:
          MediaError: a picture had to be decoded again, and its file has changed or is gone.
        """
        return self.source() if callable(self.source) else self.source

    def at_hand(self) -> Media | None:
        """The same with its pixels as `source`, if they need not be made; else None."""
        pixels = self.source.find() if isinstance(self.source, KeptPixels) else self.source
        return None if callable(pixels) or pixels is None else dataclasses.replace(self, source=pixels)

    def fetched(self) -> Media:
        """The same with its pixels as `source`; errors are those of `pixels`."""
        return dataclasses.replace(self, source=self.pixels)

    @property
    def scaling(self) -> np.ndarray:
        """float32 [2, channels]: what is subtracted from levels, and what the difference is multiplied with.

        `normalization` in the form in which a device computes it; it is a line, up to rounding.
        """
        least, most = self.normalization[:, 0].astype(np.float64), self.normalization[:, 255].astype(np.float64)
        slope = (most - least) / 255
        return np.stack([-least / slope, slope]).astype(np.float32)

    @property
    def tokens(self) -> int:
        """Number of tokens that it takes in a sequence."""
        return math.prod(self.grid) // self.merge_size**2

    @property
    def patches(self) -> np.ndarray:
        """float32 [t*h*w, channels*temporal_patch*patch*patch], equal to transformers' `pixel_values`.

        Our models take `pixels` and normalize them on the device.
        """
        pixels = self.pixels
        count, channels, _, area = pixels.shape
        patches = np.empty((count, channels, self.temporal_patch_size, area), np.float32)
        for channel in range(channels):
            patches[:, channel] = self.normalization[channel][pixels[:, channel]]
        return patches.reshape(count, -1)


def normalization_table(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """float32 [channels, 256]: (level / 255 - mean) / std, rounded as transformers' PIL image processor rounds."""
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    return (levels - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]


def process_image(
    image: Image.Image | Picture, size: tuple[int, int], geometry: Geometry, normalization: np.ndarray
) -> Media:
    """Resizes an image (bicubic) and splits it into patches; for a picture, that is done when its pixels are used.

    Args:
      image: RGB, or a picture.
      size: (width, height) to resize to, multiples of a token's side.
    """

    def pixels() -> np.ndarray:
        return _patchify(_resize(image, size)[None, None], geometry)

    return _media("image", [image], pixels, 1, size, geometry, normalization)


def process_video(
    frames: Sequence[Image.Image] | Sequence[Picture],
    fps: float,
    size: tuple[int, int],
    geometry: Geometry,
    normalization: np.ndarray,
) -> Media:
    """Resizes frames and splits them into patches, as `process_image` does; repeats the last to fill the last patch.

    Args:
      frames: RGB images or pictures, at least one.
      fps: sampled frames in a second of video.
      size: (width, height) to resize to, multiples of a token's side.
    """
    span = geometry.temporal_patch_size

    def pixels() -> np.ndarray:
        resized = [_resize(frame, size) for frame in frames]
        resized += resized[-1:] * (-len(resized) % span)
        return _patchify(np.stack(resized).reshape(-1, span, *resized[0].shape), geometry)

    return _media("video", frames, pixels, -(-len(frames) // span), size, geometry, normalization, span / fps)


def _media(kind, images, pixels, count, size, geometry, normalization, second_per_grid=0.0) -> Media:
    width, height = size
    key = None
    if isinstance(images[0], Picture):
        key = f"{kind} {width}x{height} {' '.join(image.key for image in images)}"
        if all(image.is_original for image in images):  # every update uses a query's images again, but crops seldom
            pixels = KeptPixels(images[0].original.store, (key, geometry), images, pixels)
    else:
        pixels = pixels()
    grid = (count, height // geometry.patch_size, width // geometry.patch_size)
    merge, span = geometry.merge_size, geometry.temporal_patch_size
    return Media(kind, pixels, grid, size, normalization, merge, span, second_per_grid, key)


def _resize(image: Image.Image | Picture, size: tuple[int, int]) -> np.ndarray:
    if isinstance(image, Picture):
        image = image.load()
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))


def _patchify(video: np.ndarray, geometry: Geometry) -> np.ndarray:
    """uint8 [t, frames, height, width, channels] to uint8 [t*h*w, channels, frames, patch*patch]."""
    patch, merge = geometry.patch_size, geometry.merge_size
    t, frames, height, width, channels = video.shape
    split = video.reshape(
        t, frames, height // (patch * merge), merge, patch, width // (patch * merge), merge, patch, channels
    )
    ordered = split.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return ordered.reshape(-1, channels, frames, patch * patch)
