"""Images and videos as the vision tower's patches."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pixel_reasoner_jax.processing.geometry import Geometry


@dataclasses.dataclass(frozen=True, eq=False)
class Media:
    """A processed image or video.

    Pixels stay 8-bit until they are used: a query's image is kept once for all of its samples, at an eighth of the
    size of its patches.

    Attributes:
      kind: "image" or "video".
      pixels: uint8 [t*h*w, channels, frames, patch*patch]; frames is 1 for an image (its patch repeats it) and the
        temporal patch size for a video. Patches are in transformers' order: by frame, then by merge group.
      grid: (t, h, w), in patches.
      size: (width, height) in pixels after resizing.
      normalization: float32 [channels, 256], the value of every 8-bit level.
      merge_size: side of a merge group, in patches.
      temporal_patch_size: frames in a patch.
      second_per_grid: seconds between temporal grid frames of a video; 0 for an image.
    """

    kind: str
    pixels: np.ndarray = dataclasses.field(repr=False)
    grid: tuple[int, int, int]
    size: tuple[int, int]
    normalization: np.ndarray = dataclasses.field(repr=False)
    merge_size: int = 2
    temporal_patch_size: int = 2
    second_per_grid: float = 0.0

    @functools.cached_property
    def key(self) -> bytes:
        """What images of equal content share."""
        digest = hashlib.blake2b(self.pixels.tobytes(), digest_size=16)
        digest.update(repr((self.kind, self.grid)).encode())
        return digest.digest()

    @property
    def tokens(self) -> int:
        """Tokens it takes in a sequence."""
        return len(self.pixels) // self.merge_size**2

    @property
    def patches(self) -> np.ndarray:
        """float32 [t*h*w, channels*temporal_patch*patch*patch], equal to transformers' `pixel_values`."""
        count, channels, _, area = self.pixels.shape
        patches = np.empty((count, channels, self.temporal_patch_size, area), np.float32)
        for channel in range(channels):
            patches[:, channel] = self.normalization[channel][self.pixels[:, channel]]
        return patches.reshape(count, -1)


def normalization_table(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """float32 [channels, 256]: (level / 255 - mean) / std, rounded as transformers' PIL image processor rounds."""
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    return (levels - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]


def process_image(image: Image.Image, size: tuple[int, int], geometry: Geometry, normalization: np.ndarray) -> Media:
    """Resizes (bicubic) and cuts an RGB image into patches.

    Args:
      image: RGB.
      size: (width, height) to resize to, multiples of a token's side.
    """
    pixels = _patchify(_resize(image, size)[None, None], geometry)
    return _media("image", pixels, 1, size, geometry, normalization)


def process_video(
    frames: Sequence[Image.Image], fps: float, size: tuple[int, int], geometry: Geometry, normalization: np.ndarray
) -> Media:
    """Resizes and cuts RGB frames into patches; the last one is repeated to fill the last temporal patch.

    Args:
      frames: RGB, at least one.
      fps: sampled frames in a second of video.
      size: (width, height) to resize to, multiples of a token's side.
    """
    span = geometry.temporal_patch_size
    resized = [_resize(frame, size) for frame in frames]
    resized += resized[-1:] * (-len(resized) % span)
    video = np.stack(resized).reshape(-1, span, *resized[0].shape)
    return _media("video", _patchify(video, geometry), len(video), size, geometry, normalization, span / fps)


def _media(kind, pixels, frames, size, geometry, normalization, second_per_grid=0.0) -> Media:
    width, height = size
    grid = (frames, height // geometry.patch_size, width // geometry.patch_size)
    return Media(
        kind, pixels, grid, size, normalization, geometry.merge_size, geometry.temporal_patch_size, second_per_grid
    )


def _resize(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
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
