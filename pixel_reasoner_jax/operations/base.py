"""The interface of an operation, and the images that it may look at."""

from __future__ import annotations

import abc
import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Clip, Picture

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
      clip: what the frames were sampled from; None for an image query, and where nothing is known but the frames.
      drawings: by index in `images`, what an operation has drawn on a picture to make that image.
    """

    images: list[AnyImage]
    frames: list[AnyImage]
    query_images: int
    resized: Callable[[tuple[int, int], str], tuple[int, int]] | None = None
    selected: bool = False
    result_kinds: list[str] = dataclasses.field(default_factory=list)
    clip: Clip | None = None
    drawings: dict[int, Drawing] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_query(
        cls,
        images: Sequence[AnyImage] = (),
        video_frames: Sequence[AnyImage] | None = None,
        resized: Callable[[tuple[int, int], str], tuple[int, int]] | None = None,
        clip: Clip | None = None,
    ) -> MediaState:
        """The state before the first turn; a query has images, or a video, or neither.

        Args:
          images, video_frames, resized, clip: see the attributes.

        Raises:
          UserError: it has both.
        """
        if images and video_frames:
            raise UserError("a query has either images or a video, not both")
        return cls(list(images), list(video_frames or ()), len(images), resized, clip=clip)

    @property
    def pictures(self) -> list[AnyImage]:
        """All images: the video's frames, the query's images, and those that operations returned."""
        return [*self.frames, *self.images]

    def shown_size(self, index: int) -> tuple[int, int]:
        """The (width, height) in which the model is shown `pictures[index]`."""
        size = self.pictures[index].size
        return size if self.resized is None else self.resized(size, self.kind(index))

    def kind(self, index: int) -> str:
        """The kind of `pictures[index]`, which tells its budget of tokens: "image", "video", or a result's."""
        kinds = ["video"] * len(self.frames) + ["image"] * self.query_images + self.result_kinds
        return kinds[index]

    def kind_of_edited(self, index: int) -> str:
        """The kind of an edited copy of `pictures[index]`: it is shown in the same size, but a frame as a crop is."""
        return "crop" if index < len(self.frames) else self.kind(index)

    def fork(self) -> MediaState:
        """A copy to which images can be appended; the images themselves are shared."""
        lists = {"images": list(self.images), "result_kinds": list(self.result_kinds)}
        return dataclasses.replace(self, **lists, drawings=dict(self.drawings))

    def append(self, result: Result) -> None:
        """Appends the images of a result, which numbers them."""
        if result.drawing is not None:
            self.drawings[len(self.images)] = result.drawing
        self.images.extend(result.images)
        self.result_kinds.extend([result.kind] * len(result.images))
        self.selected |= result.kind == "frame"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What was drawn on a picture.

    Attributes:
      source: the index in `MediaState.pictures` of the picture without any drawing.
      shapes: by their labels, in the order in which they are drawn; see `draw`.
    """

    source: int
    shapes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of an operation.

    Attributes:
      images: RGB, before resizing; pictures or PIL images.
      kind: "crop", "frame" or "image", which tells their budget of tokens (`processing.Budgets`). After one of kind
        "frame", numbers of images are those that were printed, and not those of the video's frames.
      first_number: the number of the first of `images`.
      boxes: for crops, the box (left, top, right, bottom) in the target image before resizing, in pixels.
      sources: for each image, the index in `MediaState.pictures` of the picture that it is, or is a crop of; empty if
        that is unknown. Reports draw the boxes there.
      drawing: for an image with something drawn on it.
      frames: for frames of the query's video, their numbers among all of its frames, from 1.
    """

    images: list[AnyImage]
    kind: str
    first_number: int
    boxes: tuple[Box, ...] = ()
    sources: tuple[int, ...] = ()
    drawing: Drawing | None = None
    frames: tuple[int, ...] = ()


class Operation(abc.ABC):
    """A visual operation. Those in a policy's `Registry` are described to the model, which can call them.

    Attributes:
      name: its name in the system message and in calls.
      aliases: other names under which a call is accepted.
      arguments: the names of its arguments, for syntaxes of calls that give values in this order, without names.
      argument_aliases: other names of arguments that are accepted, to the names that `run` knows.
      phrase: how a call is written in words, for the syntax "action", such as "look at frame {number}".
    """

    name: str
    aliases: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    argument_aliases: Mapping[str, str] = types.MappingProxyType({})
    phrase: str = ""

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

    def example(self, state: MediaState) -> dict[str, Any] | None:
        """Arguments of a call that can be executed, for checks of a model that makes none; None where there are none.

        They may fail all the same, where an image is too small.
        """
        return None

    @abc.abstractmethod
    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        """The text before the images of a result; `sizes` are their (width, height) after resizing."""


MOST_EDITED = 2**24
"""Pixels of an edited copy. What is edited of a larger image is a reduced copy of it."""


def bounded(image: AnyImage) -> AnyImage:
    """The image, or a copy of it with `MOST_EDITED` pixels if it has more, of which an edited copy can be kept."""
    width, height = image.size
    times = math.sqrt(MOST_EDITED / (width * height))
    return image if times >= 1 else image.resize((max(1, int(width * times)), max(1, int(height * times))))


def edited(
    image: AnyImage, change: Callable[[Image.Image], Image.Image], name: str, size: tuple[int, int] | None = None
) -> AnyImage:
    """A changed copy of an image. For a picture it is made when its pixels are used.

    Args:
      image: is not changed.
      change: gets the pixels, which it may change, and returns the new ones.
      name: of the change with all that it depends on: equal names must be equal changes.
      size: (width, height) of the copy; None for those of the image.
    """
    if isinstance(image, Picture):
        return image.edit(change, name, size or image.size)
    return change(image.copy())
