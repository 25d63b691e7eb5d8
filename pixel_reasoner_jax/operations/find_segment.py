"""Segments of a video: `find_segment`, and Video-CoM's `FIND_SEGMENT`."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any

from pixel_reasoner_jax.operations.arguments import check_index, check_list, check_names, signature
from pixel_reasoner_jax.operations.base import MediaState, Result
from pixel_reasoner_jax.operations.calls import OperationError
from pixel_reasoner_jax.operations.video_frames import VideoOperation, describe_clip, spread
from pixel_reasoner_jax.processing import Clip


@dataclasses.dataclass(frozen=True)
class FindSegment(VideoOperation):
    """Shows frames of some segments of the video, into which it is cut as in Video-CoM.

    `segments` are numbers from 1: there are 10 segments of equally many frames, the last of the frames that are left
    too, or fewer if they would be shorter than 10 seconds, or more if they would be longer than 30. All of them at once
    are an error.

    Attributes:
      limit: the most frames in a call; of more, so many are taken at equal distances.
    """

    name: str = "find_segment"
    limit: int = 16
    arguments = ("segments",)
    argument_aliases = types.MappingProxyType({"segment_ids": "segments", "ids": "segments"})
    phrase = "look at segments {segments}"

    def offered(self, state: MediaState) -> bool:
        return state.clip is not None and segments_of(state.clip) > 1

    def describe(self, state: MediaState) -> dict[str, Any]:
        count = segments_of(state.clip)
        number = {"type": "integer", "description": f"A segment's number, from 1 to {count}."}
        text = f"Which of the {count} segments of equal length to look at, not all of them."
        properties = {"segments": {"type": "array", "description": text, "items": number}}
        about = f"Look closer at segments of the video. {describe_clip(state.clip)}"
        return signature(self.name, about, properties)

    def example(self, state: MediaState) -> dict[str, Any] | None:
        return {"segments": [1]} if self.offered(state) else None

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        clip = self._clip(state)
        check_names(arguments, self.arguments)
        numbers, count = check_list("segments", arguments["segments"]), segments_of(clip)
        if count == 1:
            raise OperationError(f"{self.name} is only for videos of 20 seconds or more; this one is a single segment")
        chosen = {check_index("segments", number, 1, count, "segments of the video") for number in numbers}
        if not 1 <= len(chosen) < count:
            raise OperationError(f"segments has {len(chosen)} segments; it must have 1 to {count - 1}")
        length = clip.count // count
        frames = [
            frame
            for number in sorted(chosen)
            for frame in range((number - 1) * length + 1, (number * length if number < count else clip.count) + 1)
        ]
        return self._result([frames[place] for place in spread(0, len(frames) - 1, self.limit)], state)


def segments_of(clip: Clip) -> int:
    """How many segments a video is cut into, each of at least one frame."""
    return min(count_segments(clip.duration), clip.count)


def count_segments(duration: float, fewest_seconds: float = 10.0, most_seconds: float = 30.0) -> int:
    """How many segments a video of `duration` seconds is cut into: Video-CoM's rule."""
    return max(1, min(10, int(duration // fewest_seconds)), math.ceil(duration / most_seconds))
