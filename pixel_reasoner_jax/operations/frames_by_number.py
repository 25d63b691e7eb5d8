"""Frames of a video by their numbers: `frames_by_number`, and Video-CoM's `FIND_FRAME`."""

from __future__ import annotations

import dataclasses
from typing import Any

from pixel_reasoner_jax.operations.arguments import check_index, check_list, check_names, signature
from pixel_reasoner_jax.operations.base import MediaState, Result
from pixel_reasoner_jax.operations.calls import OperationError
from pixel_reasoner_jax.operations.video_frames import VideoOperation, describe_clip


@dataclasses.dataclass(frozen=True)
class FramesByNumber(VideoOperation):
    """Shows frames of the video by their numbers, `frames`, in the order of the video.

    Attributes:
      limit: the most frames in a call.
    """

    name: str = "frames_by_number"
    limit: int = 8
    arguments = ("frames",)
    phrase = "look at frames {frames}"

    def describe(self, state: MediaState) -> dict[str, Any]:
        number = {"type": "integer", "description": f"A frame's number, from 1 to {state.clip.count}."}
        frames = {"type": "array", "description": f"At most {self.limit} frames.", "items": number}
        about = f"Look closer at frames of the video. {describe_clip(state.clip)}"
        return signature(self.name, about, {"frames": frames})

    def example(self, state: MediaState) -> dict[str, Any] | None:
        return {"frames": [1]} if self.offered(state) else None

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        clip = self._clip(state)
        check_names(arguments, self.arguments)
        numbers = check_list("frames", arguments["frames"])
        if not 1 <= len(numbers) <= self.limit:
            raise OperationError(f"frames has {len(numbers)} frames; it must have 1 to {self.limit}")
        chosen = {check_index("frames", number, 1, clip.count, "frames of the video") for number in numbers}
        return self._result(sorted(chosen), state)
