"""What an operation is, what it may look at, and checks of arguments that every operation shares."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.calls import OperationError, json_type
from pixel_reasoner_jax.processing import Picture

Box = tuple[int, int, int, int]

AnyImage = Picture | Image.Image
"""What operations see and return. Rollouts show them a `Picture`: it has `size`, `width`, `height` and `crop(box)`, as
a PIL image has, all of which cost no memory, and `load()`, which gives its pixels as a PIL image to be changed at will.
A PIL image may be returned too; unlike a `Picture` it stays in memory for as long as its trajectory does."""


@dataclasses.dataclass
class MediaState:
    """The images of an episode so far.

    Attributes:
      images: what numbers refer to: the query's images, raw, then whatever operations returned, in order. The first
        has number 1. Empty at first for a video.
      frames: the frames of the query's video, raw; empty for an image query.
      query_images: how many of `images` are the query's.
      selected: frames of the video have been selected.
    """

    images: list[AnyImage]
    frames: list[AnyImage]
    query_images: int
    selected: bool = False

    @classmethod
    def from_query(cls, images: Sequence[AnyImage] = (), video_frames: Sequence[AnyImage] | None = None) -> MediaState:
        """The state before the first turn; a query has images, or a video, or neither."""
        if images and video_frames:
            raise UserError("a query has either images or a video, not both")
        return cls(list(images), list(video_frames or ()), len(images))

    @property
    def pictures(self) -> list[AnyImage]:
        """All there are, however they are numbered: the video's frames, the query's images, what was returned."""
        return [*self.frames, *self.images]

    def fork(self) -> MediaState:
        """A state that grows on its own; images are shared."""
        return dataclasses.replace(self, images=list(self.images))

    def append(self, result: Result) -> None:
        """Numbers the images of a result."""
        self.images.extend(result.images)
        self.selected |= result.kind == "frame"


@dataclasses.dataclass(frozen=True)
class Result:
    """What an operation returns.

    Attributes:
      images: RGB, before resizing; pictures or PIL images.
      kind: "crop" or "frame", which names their budget of tokens.
      first_number: the number of the first of them.
      boxes: for crops, the pixel box (left, top, right, bottom) cut from the target image.
      sources: which of `MediaState.pictures` each image is, or is a crop of; empty where none can be told. Reports
        draw the boxes there.
    """

    images: list[AnyImage]
    kind: str
    first_number: int
    boxes: tuple[Box, ...] = ()
    sources: tuple[int, ...] = ()


class Operation(abc.ABC):
    """A visual operation: give one of these to a `Registry` and models are told of it and can call it.

    Attributes:
      name: what it is called in the system message and in calls.
      aliases: other names under which a call is accepted.
    """

    name: str
    aliases: tuple[str, ...] = ()

    def offered(self, state: MediaState) -> bool:
        """Whether the system message of such a query describes it."""
        return True

    @abc.abstractmethod
    def describe(self, state: MediaState) -> dict[str, Any]:
        """The JSON function signature for this query (its real number of images and frames)."""

    @abc.abstractmethod
    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        """Executes a call; `state` is read, not changed.

        Args:
          arguments: straight from the model's JSON: anything at all.

        Raises:
          OperationError: the call cannot be executed; the message tells the model why and what would be right.
        """

    @abc.abstractmethod
    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        """The text before the images of a result; `sizes` are their (width, height) after resizing."""


def signature(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """A JSON function signature all of whose arguments are required."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def check_names(arguments: dict[str, Any], names: Sequence[str]) -> None:
    """All of `names` and nothing else must be given."""
    if set(arguments) != set(names):
        missing = [name for name in names if name not in arguments]
        problem = f"missing {', '.join(missing)}" if missing else "unknown arguments were given"
        raise OperationError(f"{problem}; the arguments are {', '.join(names)}")


def check_list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise OperationError(f"{name} must be an array, not a JSON {json_type(value)}")
    return value


def check_number(name: str, value: Any) -> float:
    """A finite number."""
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
    """An integer (2.0 is one) from `first` to `last`; `what` says what these numbers are."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise OperationError(f"{name} must be whole numbers; {what} are numbered {first} to {last}")
    if not first <= value <= last:
        raise OperationError(f"{name} is out of range; {what} are numbered {first} to {last}")
    return int(value)
