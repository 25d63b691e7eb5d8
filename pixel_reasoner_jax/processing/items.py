"""Media as people write them: paths, URLs, bytes, base64; and the sizes and rates that a message's item asks for."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.processing.geometry import resize_within
from pixel_reasoner_jax.processing.sources import MediaError

MAX_PATH = 4096
"""Characters of the longest path that systems take: a longer text is data in the wrong place."""

SOURCE_KEYS = ("bytes", "base64", "url", "path")
"""Keys of a mapping that gives one medium; the first that is there counts: a path beside bytes is only their name."""

SIZE_KEYS = ("min_pixels", "max_pixels", "resized_height", "resized_width", "nframes", "fps")
"""What an item may ask for beside its medium, as Qwen's `qwen_vl_utils` reads it."""

_REFUSED = ("total_pixels", "min_frames", "max_frames", "video_start", "video_end")

MAX_IMAGE_TOKENS = 16_384
"""The most tokens that an item may ask for, for an image or a frame; Qwen's own limit."""

MAX_FRAMES = 768
"""The most frames that an item may ask for; Qwen's own limit."""

MAX_VIDEO_TOKENS = 131_072
"""The most tokens of a video whose item asks for sizes or frames: the longest context of the released models."""


def media_source(source: Any) -> Any:
    """What an image or a video is read from: a path, bytes, or a list of these, whatever form it is given in.

    Args:
      source: a path, a file:// or data: URL, bytes, a mapping with `bytes`, `base64`, `url` or `path`, or a list of
        any of them. Everything else, such as a PIL image, is returned as it is.

    Raises:
      MediaError: an address of the network, text that is no base64, or a mapping with nothing to read.
    """
    if isinstance(source, Mapping):
        key = next((key for key in SOURCE_KEYS if source.get(key) is not None), None)
        if key is None:
            raise MediaError(f"a medium with the keys {shown(sorted(map(str, source)))}: it has none of {SOURCE_KEYS}")
        if key == "base64" and isinstance(source[key], str) and not source[key].startswith("data:"):
            return _decoded(source[key])
        source = source[key]
        if isinstance(source, Mapping):
            raise MediaError(f"a medium's {key} is a mapping; it is a text or bytes")
        return media_source(source)
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, list | tuple):
        return [media_source(one) for one in source]
    return _text_source(source) if isinstance(source, str) else source


def _text_source(text: str) -> str | bytes:
    scheme = text[:8].lower()
    if scheme.startswith("data:"):
        head, comma, data = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise MediaError(f"{shown(head)}: a data: URL is data:TYPE;base64,DATA")
        return _decoded(data)
    if scheme.startswith(("http://", "https://")):
        raise MediaError(f"{shown(text)}: nothing is downloaded; put the file beside the data")
    if not text:
        raise MediaError("a medium's path is empty")
    if len(text) > MAX_PATH:
        raise MediaError(f"{shown(text)} is too long for a path; base64 is given as data:TYPE;base64,DATA")
    return text[len("file://") :] if scheme.startswith("file://") else text


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{shown(text)} is not base64 ({error})") from None


@dataclasses.dataclass(frozen=True)
class ItemSizes:
    """What an item of a message asks for beside its medium; None is what the budgets say.

    Attributes:
      min_pixels, max_pixels: of an image or a frame after resizing, about.
      resized: (width, height) that it is resized to, rounded to tokens.
      frames: to take from a video.
      fps: of a video file, the frames to take in a second of it; of a list of frames, how many of these make a second.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    resized: tuple[int, int] | None = None
    frames: int | None = None
    fps: float | None = None

    @classmethod
    def of(cls, kind: str, item: Mapping[str, Any], token_size: int) -> ItemSizes:
        """Reads an item; kind: "image" or "video".

        Raises:
          UserError: a value out of range, values that contradict each other, or a wish that is not met; each is named.
        """
        for key in (*_REFUSED, *(("nframes", "fps") if kind == "image" else ())):
            if item.get(key) is not None:
                known = SIZE_KEYS[:4] if kind == "image" else SIZE_KEYS
                raise UserError(f"{key} is not supported; an item with {kind} may have {', '.join(known)}")
        most = MAX_IMAGE_TOKENS * token_size**2
        least, largest, height, width = (_whole(item, key, most) for key in SIZE_KEYS[:4])
        if (height is None) != (width is None):
            missing = "resized_width" if width is None else "resized_height"
            raise UserError(f"{missing} is missing: resized_height and resized_width go together")
        if least is not None and largest is not None and least > largest:
            raise UserError(f"min_pixels {least} is more than max_pixels {largest}")
        frames, fps = _whole(item, "nframes", MAX_FRAMES), _rate(item)
        if frames is not None and fps is not None and not isinstance(item.get("video"), list | tuple):
            raise UserError("it has nframes and fps; a video file is sampled by one of them")
        resized = None if width is None or height is None else (width, height)
        return cls(least, largest, resized, frames, fps)

    def size(self, size: tuple[int, int], budget: tuple[int, int], token_size: int) -> tuple[int, int]:
        """The (width, height) that an image of `size` becomes, where the budget has (least, most) tokens.

        Raises:
          UserError: an aspect ratio above 200.
        """
        area = token_size**2
        if self.resized is not None:  # as Qwen's: rounded to tokens, and held to its own limits
            return resize_within(self.resized, (4 * area, MAX_IMAGE_TOKENS * area), token_size)
        least, most = (count * area for count in budget)
        if self.max_pixels is not None:
            least, most = min(least, self.max_pixels), self.max_pixels
        if self.min_pixels is not None:
            least, most = self.min_pixels, max(most, self.min_pixels)
        return resize_within(size, (least, most), token_size)


def _whole(item: Mapping[str, Any], key: str, most: int) -> int | None:
    """A whole number from 1 to `most`; tables may hold it as a float."""
    value = item.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 1 <= value <= most:
        raise UserError(f"{key} is {shown(value)}; it is a whole number from 1 to {most:,}")
    return int(value)


def _rate(item: Mapping[str, Any]) -> float | None:
    value = item.get("fps")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"fps is {shown(value)}; it is a number of frames in a second, above 0")
    return float(value)
