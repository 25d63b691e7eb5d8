"""A closer look at a video: `select_frames`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pixel_reasoner_jax.operations.arguments import check_index, check_list, check_names, signature
from pixel_reasoner_jax.operations.base import MediaState, Operation, Result
from pixel_reasoner_jax.operations.calls import OperationError


@dataclasses.dataclass(frozen=True)
class SelectFrames(Operation):
    """Returns chosen frames of the query's video as images, which are resized to the budget of selected frames.

    `target_frames` is a list of frame numbers from 1, at most `limit` of them; frames are returned in this order.

    Attributes:
      limit: the most frames in a call.
      release: use the released code's signature, which is given for images too and always promises 16 frames.
    """

    limit: int = 8
    release: bool = False
    name: str = "select_frames"
    aliases: tuple[str, ...] = ()
    arguments = ("target_frames",)
    phrase = "select frames {target_frames}"

    def offered(self, state: MediaState) -> bool:
        return self.release or bool(state.frames)

    def describe(self, state: MediaState) -> dict[str, Any]:
        count = 16 if self.release else len(state.frames)
        frames = {
            "type": "array",
            "description": (
                f"List of frame indices to select from the video (no more than {self.limit} frames in total)."
            ),
            "items": {"type": "integer", "description": f"Frame index from 1 to {count}."},
        }
        return signature(self.name, "Select frames from a video.", {"target_frames": frames})

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        if not state.frames:
            raise OperationError(f"{self.name} is only for videos; there is no video here")
        check_names(arguments, ("target_frames",))
        numbers = check_list("target_frames", arguments["target_frames"])
        if not 1 <= len(numbers) <= self.limit:
            raise OperationError(f"target_frames has {len(numbers)} frames; it must have 1 to {self.limit}")
        last = len(state.frames)
        chosen = [check_index("target_frames", number, 1, last, "frames of the video") - 1 for number in numbers]
        frames = [state.frames[index] for index in chosen]
        return Result(frames, "frame", len(state.images) + 1, sources=tuple(chosen))

    def example(self, state: MediaState) -> dict[str, Any] | None:
        return {"target_frames": [1]} if state.frames else None

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        first, last = result.first_number, result.first_number + len(result.images) - 1
        return f"\nHere are the selected frames (Frame Size: {width}x{height}, Numbered {first} to {last}):"
