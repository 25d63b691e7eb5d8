"""Operations that happen whatever the model writes: an untrained model calls none; nothing would follow an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from pixel_reasoner_jax.config_values import CROP, SELECT
from pixel_reasoner_jax.operations import Call, CropImage, MediaState, OperationError, Registry, SelectFrames
from pixel_reasoner_jax.operations.base import Result

FORCED = Call("forced", {})
BOXES = ([0.05, 0.1, 0.55, 0.95], [0.1, 0.3, 0.9, 0.6])  # upright, and lying


@dataclasses.dataclass(frozen=True)
class ForcedResult(Result):
    """The result of a call that was not made; `made` is that call."""

    made: Call = FORCED


class ForcedCalls(Registry):
    """The operations of another registry. A turn that calls none of them, or in a wrong form, calls one all the same.

    Where there are others than the paper's, each of these is called in turn (`Operation.example`). Else, or where they
    refuse, frames are selected where there is a video, and of an image, a crop or a frame, a part is cropped. Texts are
    sampled as ever, so that their log-probabilities are those of the model.
    """

    def __init__(self, registry: Registry):
        super().__init__(registry.operations, registry.syntax)
        for operation in (CropImage(), SelectFrames()):  # not described to the model, where it has others
            self._by_name.setdefault(operation.name, operation)

    def parse(self, text: str) -> Call | None | OperationError:
        call = super().parse(text)
        return call if isinstance(call, Call) else FORCED

    def execute(self, call: Call, state: MediaState) -> Result:
        """Runs a call; in place of one that was not made, the first that the images of the response allow."""
        if call is not FORCED:
            return super().execute(call, state)
        refused = OperationError("there is nothing to look at more closely")
        for possible in (*self._examples(state), *_possible_calls(state)):
            try:
                return ForcedResult(**vars(super().execute(possible, state)), made=possible)
            except OperationError as error:
                refused = error
        raise refused

    def observation_text(self, call: Call, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        made = result.made if isinstance(result, ForcedResult) else call
        return super().observation_text(made, result, sizes)

    def _examples(self, state: MediaState) -> list[Call]:
        """A call of each operation that is not the paper's; another is the first after each image."""
        others = [operation for operation in self.operations if operation.name not in (CROP, SELECT, "zoom_in")]
        examples = [(operation.name, operation.example(state)) for operation in others]
        calls = [Call(name, arguments) for name, arguments in examples if arguments is not None]
        turn = len(state.result_kinds) % max(1, len(calls))
        return calls[turn:] + calls[:turn]


def _possible_calls(state: MediaState) -> Iterator[Call]:
    if state.frames and not state.selected:
        yield Call(SELECT, {"target_frames": [1, len(state.frames)]})
    last = len(state.images) or len(state.frames)
    for target in (last, last + 1, 1):  # the released code's numbers of frames begin with 2
        for box in (BOXES[len(state.images) % 2], [0.0, 0.0, 0.999, 0.999]):  # the whole, where a part is too small
            yield Call(CROP, {"bbox_2d": box, "target_image": target})
