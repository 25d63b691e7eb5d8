"""Finding one's way in a video: `frames_between`, `frame_at_time` and `find_segment`.

All choose among the frames that were sampled from the video, which are numbered from 1.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Sequence
from typing import Any

from pixel_reasoner_jax.operations.arguments import (
    check_index,
    check_list,
    check_names,
    check_number,
    signature,
)
from pixel_reasoner_jax.operations.base import MediaState, Operation, Result
from pixel_reasoner_jax.operations.calls import OperationError


@dataclasses.dataclass(frozen=True)
class _OfVideo(Operation):
    """An operation that shows frames of the query's video.

    Attributes:
      name, aliases: see `Operation`.
    """

    name: str
    aliases: tuple[str, ...] = ()

    def offered(self, state: MediaState) -> bool:
        return bool(state.frames)

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        frames = ", ".join(str(source + 1) for source in result.sources)
        first, last = result.first_number, result.first_number + len(result.images) - 1
        noun, numbers = ("is frame", first) if len(result.images) == 1 else ("are frames", f"{first} to {last}")
        return f"\nHere {noun} {frames} of the video (Frame Size: {width}x{height}, Numbered {numbers}):"

    def _check_is_video(self, state: MediaState) -> None:
        if not state.frames:
            raise OperationError(f"{self.name} is only for videos; there is no video here")

    def _shown(self, chosen: Sequence[int], state: MediaState) -> Result:
        frames = [state.frames[index] for index in chosen]
        return Result(frames, "frame", len(state.images) + 1, sources=tuple(chosen))


@dataclasses.dataclass(frozen=True)
class FramesBetween(_OfVideo):
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
        number = {"type": "integer", "description": f"A frame's number, from 1 to {len(state.frames)}."}
        text = f"Look closer at frames between two others, at most {self._most(state)} of them, evenly spread."
        return signature(self.name, text, {"start": number, "end": number})

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        self._check_is_video(state)
        check_names(arguments, self.arguments)
        last = len(state.frames)
        start = check_index("start", arguments["start"], 1, last, "frames of the video")
        end = arguments["end"]
        if isinstance(end, int | float) and not isinstance(end, bool) and end > last:
            end = last
        end = check_index("end", end, 1, last, "frames of the video")
        if end - start < 2:
            raise OperationError(f"end must be at least 2 more than start: no frame is between {start} and {end}")
        return self._shown([number - 1 for number in spread(start + 1, end - 1, self._most(state))], state)

    def _most(self, state: MediaState) -> int:
        return self.limit_of_long if state.duration > 300 else self.limit


def spread(first: int, last: int, count: int) -> list[int]:
    """At most `count` whole numbers from `first` to `last`, at equal distances cut to whole numbers, each once."""
    steps = max(1, count - 1)
    return sorted({first + (last - first) * step // steps for step in range(count)})


@dataclasses.dataclass(frozen=True)
class FrameAtTime(_OfVideo):
    """Shows the frame at a time of the video: the last one that is not later.

    `time` is "MM:SS" or "HH:MM:SS", or a number of seconds. FrameThinker's query tells the frame's number alone; this
    one shows the frame too, since an operation that succeeds has shown something.
    """

    name: str = "frame_at_time"
    arguments = ("time",)
    phrase = "get frame number at time {time}"

    def describe(self, state: MediaState) -> dict[str, Any]:
        text = f"A time as MM:SS or HH:MM:SS, from 00:00 to {clock(state.duration)}."
        time = {"type": "string", "description": text}
        return signature(self.name, "Find the frame at a time of the video.", {"time": time})

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        self._check_is_video(state)
        check_names(arguments, self.arguments)
        seconds = read_time(arguments["time"])
        if not state.times:
            raise OperationError(f"{self.name} is only for videos whose times are known")
        if not 0 <= seconds <= state.duration:
            raise OperationError(f"time is out of range; the video is from 00:00 to {clock(state.duration)}")
        before = [index for index, time in enumerate(state.times) if time <= seconds]
        return self._shown([before[-1] if before else 0], state)


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


@dataclasses.dataclass(frozen=True)
class FindSegment(_OfVideo):
    """Shows the frames of some segments of the video, into which it is cut as in Video-CoM.

    `segments` are numbers from 1: there are 10 segments of equal length, or fewer if they would be shorter than 10
    seconds, or more if they would be longer than 30. All of them at once are an error. Of a segment within which no
    frame was sampled, the frame that is nearest to its middle is shown.

    Attributes:
      limit: the most frames in a call; of more, so many are taken at equal distances.
    """

    name: str = "find_segment"
    limit: int = 16
    arguments = ("segments",)
    argument_aliases = types.MappingProxyType({"segment_ids": "segments", "ids": "segments"})
    phrase = "look at segments {segments}"

    def offered(self, state: MediaState) -> bool:
        return bool(state.frames) and count_segments(state.duration) > 1

    def describe(self, state: MediaState) -> dict[str, Any]:
        count = count_segments(state.duration)
        number = {"type": "integer", "description": f"A segment's number, from 1 to {count}."}
        text = f"Which of the {count} segments of equal length to look at, not all of them."
        properties = {"segments": {"type": "array", "description": text, "items": number}}
        return signature(self.name, "Look closer at segments of the video.", properties)

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        self._check_is_video(state)
        check_names(arguments, self.arguments)
        if not state.times or not state.duration:
            raise OperationError(f"{self.name} is only for videos whose times are known")
        if count_segments(state.duration) == 1:
            raise OperationError(f"{self.name} is only for videos of 20 seconds or more; this one is a single segment")
        numbers, count = check_list("segments", arguments["segments"]), count_segments(state.duration)
        chosen = {check_index("segments", number, 1, count, "segments of the video") for number in numbers}
        if not 1 <= len(chosen) < count:
            raise OperationError(f"segments has {len(chosen)} segments; it must have 1 to {count - 1}")
        frames = sorted({index for number in chosen for index in self._frames(number, count, state)})
        return self._shown([frames[place] for place in spread(0, len(frames) - 1, self.limit)], state)

    def _frames(self, number: int, count: int, state: MediaState) -> list[int]:
        start, end = ((number - 1 + part) * state.duration / count for part in (0, 1))
        inside = [index for index, time in enumerate(state.times) if start <= time < end]
        middle = (start + end) / 2
        return inside or [min(range(len(state.times)), key=lambda index: abs(state.times[index] - middle))]


def count_segments(duration: float, fewest_seconds: float = 10.0, most_seconds: float = 30.0) -> int:
    """How many segments a video of `duration` seconds is cut into: Video-CoM's rule."""
    return max(1, min(10, int(duration // fewest_seconds)), math.ceil(duration / most_seconds))
