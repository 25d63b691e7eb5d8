"""Frames between two others: `frames_between`, which FrameThinker chooses."""

from __future__ import annotations

import dataclasses
from typing import Any

from pixel_reasoner_jax.operations.arguments import check_index, check_names, signature
from pixel_reasoner_jax.operations.base import MediaState, Result
from pixel_reasoner_jax.operations.calls import OperationError
from pixel_reasoner_jax.operations.video_frames import VideoOperation, describe_clip, spread
from pixel_reasoner_jax.processing import Clip


@dataclasses.dataclass(frozen=True)
class FramesBetween(VideoOperation):
    """Shows frames between two others, which are not among them, evenly spread (FrameThinker).

    `start` and `end` are numbers of frames; an `end` after the last frame is the last. The frames are the whole part of
    `limit` numbers from `start` + 1 to `end` - 1 at equal distances, each once.

    Attributes:
      limit: the most frames in a call.
      limit_of_long: the same for videos of more than 300 seconds.
    """

    name: str = "frames_between"
    limit: int = 8
    limit_of_long: int = 12
    arguments = ("start", "end")
    phrase = "choose frames between {start} and {end}"

    def describe(self, state: MediaState) -> dict[str, Any]:
        number = {"type": "integer", "description": f"A frame's number, from 1 to {state.clip.count}."}
        text = f"Look closer at frames between two others, at most {self._most(state.clip)} of them, evenly spread."
        return signature(self.name, f"{text} {describe_clip(state.clip)}", {"start": number, "end": number})

    def example(self, state: MediaState) -> dict[str, Any] | None:
        return {"start": 1, "end": state.clip.count} if self.offered(state) and state.clip.count > 2 else None

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        clip = self._clip(state)
        check_names(arguments, self.arguments)
        start = check_index("start", arguments["start"], 1, clip.count, "frames of the video")
        end = arguments["end"]
        if isinstance(end, int | float) and not isinstance(end, bool) and end > clip.count:
            end = clip.count
        end = check_index("end", end, 1, clip.count, "frames of the video")
        if end - start < 2:
            raise OperationError(f"end must be at least 2 more than start: no frame is between {start} and {end}")
        return self._result(spread(start + 1, end - 1, self._most(clip)), state)

    def _most(self, clip: Clip) -> int:
        return self.limit_of_long if clip.duration > 300 else self.limit
