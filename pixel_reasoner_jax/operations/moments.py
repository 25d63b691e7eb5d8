"""Finding one's way in a video: `frames_by_number`, `frames_between`, `frame_at_time` and `find_segment`.

All choose among all frames of the video, which are numbered from 1, also those that were not sampled from it.
"""

from __future__ import annotations

import bisect
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
from pixel_reasoner_jax.processing import Clip


@dataclasses.dataclass(frozen=True)
class _OfVideo(Operation):
    """An operation that shows frames of the query's video.

    Attributes:
      name, aliases: see `Operation`.
    """

    name: str
    aliases: tuple[str, ...] = ()

    def offered(self, state: MediaState) -> bool:
        return state.clip is not None

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        frames = ", ".join(map(str, result.frames))
        first, last = result.first_number, result.first_number + len(result.images) - 1
        noun, numbers = ("is frame", first) if len(result.images) == 1 else ("are frames", f"{first} to {last}")
        return f"\nHere {noun} {frames} of the video (Frame Size: {width}x{height}, Numbered {numbers}):"

    def _clip(self, state: MediaState) -> Clip:
        """The video.

        Raises:
          OperationError: there is none, or nothing is known of it but its frames.
        """
        if not state.frames:
            raise OperationError(f"{self.name} is only for videos; there is no video here")
        if state.clip is None:
            raise OperationError(f"{self.name} is only for videos whose times are known")
        return state.clip

    def _result(self, numbers: Sequence[int], state: MediaState) -> Result:
        """Shows frames by their numbers, which ascend."""
        clip = self._clip(state)
        places = {index + 1: place for place, index in enumerate(clip.sampled)}
        known = all(number in places for number in numbers)
        sources = tuple(places[number] for number in numbers) if known else ()
        frames = clip.frames([number - 1 for number in numbers])
        return Result(frames, "frame", len(state.images) + 1, sources=sources, frames=tuple(numbers))


def describe_clip(clip: Clip) -> str:
    """What the model has to know of a video to name its frames."""
    sampled = ", ".join(str(index + 1) for index in clip.sampled)
    return f"The video has frames 1 to {clip.count}, {clip.fps:.4g} a second; you are shown frames {sampled}."


@dataclasses.dataclass(frozen=True)
class FramesByNumber(_OfVideo):
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


@dataclasses.dataclass(frozen=True)
class FindSegment(_OfVideo):
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
