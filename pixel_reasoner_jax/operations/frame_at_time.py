"""The frame at a time of a video: `frame_at_time`."""

from __future__ import annotations

import bisect
import dataclasses
import re
from typing import Any

from pixel_reasoner_jax.operations.arguments import check_names, check_number, signature
from pixel_reasoner_jax.operations.base import MediaState, Result
from pixel_reasoner_jax.operations.calls import OperationError
from pixel_reasoner_jax.operations.video_frames import VideoOperation, describe_clip


@dataclasses.dataclass(frozen=True)
class FrameAtTime(VideoOperation):
    """Shows the frame at a time of the video: the last one that is not later.

    `time` is "MM:SS" or "HH:MM:SS", or a number of seconds. FrameThinker's query tells the frame's number alone; this
    one shows the frame too, since an operation that succeeds has shown something.
    """

    name: str = "frame_at_time"
    arguments = ("time",)
    phrase = "get frame number at time {time}"

    def describe(self, state: MediaState) -> dict[str, Any]:
        text = f"A time as MM:SS or HH:MM:SS, from 00:00 to {clock(state.clip.duration)}."
        time = {"type": "string", "description": text}
        about = f"Find the frame at a time of the video. {describe_clip(state.clip)}"
        return signature(self.name, about, {"time": time})

    def example(self, state: MediaState) -> dict[str, Any] | None:
        return {"time": "00:00"} if self.offered(state) else None

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        clip = self._clip(state)
        check_names(arguments, self.arguments)
        seconds = read_time(arguments["time"])
        if not 0 <= seconds <= clip.duration:
            raise OperationError(f"time is out of range; the video is from 00:00 to {clock(clip.duration)}")
        number = bisect.bisect_right(clip.times(range(clip.count)), seconds)
        return self._result([max(1, number)], state)


def read_time(value: Any) -> float:
    """Seconds of "MM:SS", "HH:MM:SS" or a number of seconds."""
    if not isinstance(value, str):
        return check_number("time", value)
    parts = re.fullmatch(r"(?:([0-9]{1,3}):)?([0-9]{1,3}):([0-9]{1,2}(?:\.[0-9]{1,3})?)", value.strip()[:20])
    if not parts:
        raise OperationError("time must be MM:SS or HH:MM:SS, or a number of seconds")
    hours, minutes, seconds = parts.groups(default="0")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def clock(seconds: float) -> str:
    """Whole seconds as "MM:SS", or "HH:MM:SS" from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours = f"{minutes // 60:02}:" if minutes >= 60 else ""
    return f"{hours}{minutes % 60:02}:{rest:02}"
