"""What is known of a video before its frames are decoded, and why one cannot be read."""

from __future__ import annotations

import array
import dataclasses

REENCODE = "re-encode it with `ffmpeg -i FILE -c:v libx264 OUT.mp4`"
"""What to do about a video that ffmpeg reads and this package does not."""

CUT_OFF = f"copy it anew, or, if what is left is enough, {REENCODE}"
DAMAGED = f"is damaged or truncated: copy it anew, or {REENCODE}"


class VideoError(ValueError):
    """A video that cannot be read; the message follows the file's name."""


@dataclasses.dataclass(frozen=True)
class VideoIndex:
    """What a video shows, and where decoding can begin.

    Attributes:
      times: of every frame, ascending, in ticks.
      keys: times of the frames that decoding can begin at, ascending; empty if with the first frame alone.
      tick: in seconds.
      rate: frames in a second.
      size: (width, height) of the first frame, as it is shown.
    """

    times: array.array
    keys: array.array
    tick: float
    rate: float
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
      size: (width, height) as it is stored.
      rotation: degrees to turn it counterclockwise to show it.
      pixels: RGB, row by row.
    """

    size: tuple[int, int]
    rotation: int
    pixels: bytes | bytearray | memoryview
