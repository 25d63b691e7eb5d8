"""The interface of an operation, the images that it may look at, and checks of arguments that operations share."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.calls import OperationError, json_type
from pixel_reasoner_jax.processing import Picture

Box = tuple[int, int, int, int]

AnyImage = Picture | Image.Image
"""The images that operations get and return. In rollouts they get a `Picture`: like a PIL image it has `size`, `width`,
`height`, `crop(box)` and `resize(size)`, none of which takes memory, and `load()` returns its pixels as a PIL image
that the caller may change. An operation may return a PIL image too; unlike a `Picture`, it stays in memory as long as
its trajectory."""


@dataclasses.dataclass
class MediaState:
    """The images of an episode so far.

    Attributes:
      images: the numbered images: the query's images, before resizing, then all that operations returned, in order. The
        first one has number 1. Empty at first for a video.
      frames: the frames of the query's video, before resizing; empty for an image query.
      query_images: how many of `images` are the query's.
      resized: (size, kind) to the size that the model is shown, as `Processor.resized`; None if images are shown in
        their own size.
      selected: whether frames of the video have been selected.
      result_kinds: the kinds (`Result.kind`) of the images after the query's.
    """

    images: list[AnyImage]
    frames: list[AnyImage]
    query_images: int
    resized: Callable[[tuple[int, int], str], tuple[int, int]] | None = None
    selected: bool = False
    result_kinds: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def from_query(
        cls,
        images: Sequence[AnyImage] = (),
        video_frames: Sequence[AnyImage] | None = None,
        resized: Callable[[tuple[int, int], str], tuple[int, int]] | None = None,
    ) -> MediaState:
        """The state before the first turn; a query has images, or a video, or neither.

        Raises:
          UserError: it has both.
        """
        if images and video_frames:
            raise UserError("a query has either images or a video, not both")
        return cls(list(images), list(video_frames or ()), len(images), resized)

    @property
    def pictures(self) -> list[AnyImage]:
        """All images: the video's frames, the query's images, and those that operations returned."""
        return [*self.frames, *self.images]

    def shown_size(self, index: int) -> tuple[int, int]:
        """The (width, height) in which the model is shown `pictures[index]`."""
        size = self.pictures[index].size
        if self.resized is None:
            return size
        kinds = ["video"] * len(self.frames) + ["image"] * self.query_images + self.result_kinds
        return self.resized(size, kinds[index])

    def fork(self) -> MediaState:
        """A copy to which images can be appended; the images themselves are shared."""
        return dataclasses.replace(self, images=list(self.images), result_kinds=list(self.result_kinds))

    def append(self, result: Result) -> None:
        """Appends the images of a result, which numbers them."""
        self.images.extend(result.images)
        self.result_kinds.extend([result.kind] * len(result.images))
        self.selected |= result.kind == "frame"


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of an operation.

    Attributes:
      images: RGB, before resizing; pictures or PIL images.
      kind: "crop" or "frame", which tells their budget of tokens (`processing.Budgets`).
      first_number: the number of the first of `images`.
      boxes: for crops, the box (left, top, right, bottom) in the target image before resizing, in pixels.
      sources: for each image, the index in `MediaState.pictures` of the picture that it is, or is a crop of; empty if
        that is unknown. Reports draw the boxes there.
    """

    images: list[AnyImage]
    kind: str
    first_number: int
    boxes: tuple[Box, ...] = ()
    sources: tuple[int, ...] = ()


class Operation(abc.ABC):
    """A visual operation. Those in a policy's `Registry` are described to the model, which can call them.

    Attributes:
      name: its name in the system message and in calls.
      aliases: other names under which a call is accepted.
    """

    name: str
    aliases: tuple[str, ...] = ()

    def offered(self, state: MediaState) -> bool:
        """Whether the system message of a query with this state describes the operation."""
        return True

    @abc.abstractmethod
    def describe(self, state: MediaState) -> dict[str, Any]:
        """The JSON function signature for this query, with its number of images and frames."""

    @abc.abstractmethod
    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        """Executes a call; `state` is read, not changed.

        Args:
          arguments: parsed from the model's JSON and not checked: they may be anything.

        Raises:
          OperationError: the call cannot be executed; the message tells the model why and what would be right.
        """

    @abc.abstractmethod
    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        """The text before the images of a result; `sizes` are their (width, height) after resizing."""


def signature(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """A JSON function signature with `properties` as arguments, all of them required."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def check_names(arguments: dict[str, Any], names: Sequence[str]) -> None:
    """Checks that exactly the arguments `names` are given."""
    if set(arguments) != set(names):
        missing = [name for name in names if name not in arguments]
        problem = f"missing {', '.join(missing)}" if missing else "unknown arguments were given"
        raise OperationError(f"{problem}; the arguments are {', '.join(names)}")


def check_list(name: str, value: Any) -> list[Any]:
    """Checks that a value is a list, and returns it."""
    if not isinstance(value, list):
        raise OperationError(f"{name} must be an array, not a JSON {json_type(value)}")
    return value


def check_number(name: str, value: Any) -> float:
    """Checks that a value is a finite number, and returns it as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OperationError(f"{name} must be numbers, not a JSON {json_type(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OperationError(f"{name} must be finite numbers")
    return number


def check_index(name: str, value: Any, first: int, last: int, what: str) -> int:
    """Checks that a value is an integer (2.0 is one) from `first` to `last`; `what` says what these numbers count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise OperationError(f"{name} must be whole numbers; {what} are numbered {first} to {last}")
    if not first <= value <= last:
        raise OperationError(f"{name} is out of range; {what} are numbered {first} to {last}")
    return int(value)
