"""Sizes: how pixels become patches and tokens, and how many tokens an image may have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown

MAX_ASPECT_RATIO = 200
"""Images longer than this many times their width are refused, as Qwen2-VL's processor does."""

TOKEN_SIZE = 28
"""Side of the square that becomes one token in the released models, in pixels."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The vision tower's fixed sizes, from `vision_config` of the model's config.json.

    Attributes:
      patch_size: side of a patch, in pixels.
      temporal_patch_size: frames in a patch; an image is repeated to fill it.
      merge_size: side, in patches, of the square that becomes one token.
      window_size: side of an attention window, in pixels.
      tokens_per_second: temporal positions in a second of video.
    """

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    window_size: int = 112
    tokens_per_second: int = 2

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Geometry:
        """Reads a model's config.json; a missing entry keeps Qwen2.5-VL's value.

        Raises:
          UserError: an entry that is no size.
        """
        vision = config.get("vision_config") or {}
        if not isinstance(vision, Mapping):
            raise UserError(f"vision_config is {shown(vision)}; it must be an object")
        vision = dict(vision)
        vision["merge_size"] = vision.pop("spatial_merge_size", cls.merge_size)
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in vision.items() if name in names})

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise UserError(f"vision_config has {field.name} {shown(value)}; it must be a whole number above 0")
        if self.window_size % self.token_size:
            raise UserError(
                f"window_size {self.window_size} is not a multiple of patch_size {self.patch_size}"
                f" times spatial_merge_size {self.merge_size}"
            )

    @property
    def token_size(self) -> int:
        """Side of the square that becomes one token, in pixels."""
        return self.patch_size * self.merge_size

    @property
    def window_tokens(self) -> int:
        """Side of an attention window, in tokens."""
        return self.window_size // self.token_size

    @property
    def window_patches(self) -> int:
        """Patches in a full attention window."""
        return (self.window_tokens * self.merge_size) ** 2

    @property
    def patch_values(self) -> int:
        """Values in a patch: channels * frames * height * width."""
        return 3 * self.temporal_patch_size * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class Budgets:
    """How many tokens (28x28 pixels each in Qwen2.5-VL) an image may have: (least, most) for every kind of image.

    The defaults of image, crop and frame are those the released Pixel Reasoner was trained with; its evaluation used
    (256, 8000), (256, 5120) and (256, 5120). Leave some slack between least and most, since sides are rounded to
    tokens.

    Attributes:
      image: a query image.
      crop: an image that a crop operation returns.
      frame: each frame that was selected from a video.
      video: each frame of a query video (a pair of frames has this many tokens).
      video_frames: frames taken from a query video, spread evenly over it.
      video_rate: frames taken in a second of a query video, `video_frames` at most; 0: `video_frames`, however long
        the video is.
    """

    image: tuple[int, int] = (4, 2000)
    crop: tuple[int, int] = (4, 1000)
    frame: tuple[int, int] = (4, 400)
    video: tuple[int, int] = (4, 256)
    video_frames: int = 16
    video_rate: float = 0.0

    KINDS = ("image", "crop", "frame", "video")

    def __post_init__(self):
        for kind in self.KINDS:
            budget = getattr(self, kind)
            budget = tuple(budget) if isinstance(budget, list | tuple) else (budget,)
            if len(budget) != 2 or not all(isinstance(number, int) for number in budget):
                raise UserError(f"budget of {kind} is {budget}; it needs two whole numbers, such as (4, 2000)")
            least, most = budget
            if not 1 <= least <= most:
                raise UserError(f"budget of {kind} is {(least, most)}; it needs 1 <= least <= most tokens")
            object.__setattr__(self, kind, budget)
        if not isinstance(self.video_frames, int) or self.video_frames < 1:
            raise UserError(f"video_frames must be a whole number, at least 1, got {shown(self.video_frames)}")
        if not isinstance(self.video_rate, int | float) or not 0 <= self.video_rate < math.inf:
            raise UserError(f"video_rate must be a number and not negative, got {shown(self.video_rate)}")

    def replaced(self, given: Mapping[str, Any]) -> Budgets:
        """Those `given` by their names, and for those that are None or not given these."""
        return dataclasses.replace(self, **{name: value for name, value in given.items() if value is not None})

    def of(self, kind: str) -> tuple[int, int]:
        """(least, most) tokens of a kind of image."""
        if kind not in self.KINDS:
            raise UserError(f"unknown kind of image {shown(kind)}; it is one of {', '.join(self.KINDS)}")
        return getattr(self, kind)


def smart_resize(size: tuple[int, int], budget: tuple[int, int], token_size: int = TOKEN_SIZE) -> tuple[int, int]:
    """The size that an image is resized to: multiples of a token's side, about its aspect ratio, within a budget.

    Equal to `smart_resize` of transformers' Qwen2-VL, except where that exceeds the budget (very long images, and
    budgets whose least and most are close to each other): there this function shortens the longer side.

    Args:
      size: (width, height) in pixels.
      budget: (least, most) tokens.
      token_size: side of a token, in pixels.

    Returns:
      (width, height) in pixels.

    Raises:
      UserError: an aspect ratio above 200.
    """
    least, most = budget
    return resize_within(size, (least * token_size**2, most * token_size**2), token_size)


def resize_within(size: tuple[int, int], pixels: tuple[int, int], token_size: int = TOKEN_SIZE) -> tuple[int, int]:
    """As `smart_resize`, with (least, most) pixels after resizing in place of tokens."""
    width, height = size
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise UserError(f"an image of {width}x{height} pixels is more than {MAX_ASPECT_RATIO} times as long as wide")
    least, most = pixels
    area = token_size**2
    columns, rows = round(width / token_size), round(height / token_size)
    # Operations are in transformers' order: another order rounds otherwise, and floor and ceil could then differ by 1.
    if columns * rows * area > most:
        shrink = math.sqrt((height * width) / most)
        columns, rows = (max(1, math.floor(side / shrink / token_size)) for side in size)
    elif columns * rows * area < least:
        grow = math.sqrt(least / (height * width))
        columns, rows = (math.ceil(side * grow / token_size) for side in size)
    if columns * rows * area > most:
        if columns >= rows:
            columns = max(1, most // (rows * area))
        else:
            rows = max(1, most // (columns * area))
    return columns * token_size, rows * token_size
