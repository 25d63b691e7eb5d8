"""What operations share that show frames of a video.

They choose among all frames of the video, which are numbered from 1, also those that were not sampled from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pixel_reasoner_jax.operations.base import MediaState, Operation, Result
from pixel_reasoner_jax.operations.calls import OperationError
from pixel_reasoner_jax.processing import Clip


@dataclasses.dataclass(frozen=True)
class VideoOperation(Operation):
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


def spread(first: int, last: int, count: int) -> list[int]:
    """At most `count` whole numbers from `first` to `last`, at equal distances cut to whole numbers, each once."""
    steps = max(1, count - 1)
    return sorted({first + (last - first) * step // steps for step in range(count)})
