"""Drawing boxes and lines on an image: `draw_boxes`, `draw_lines`, and lines across the image.

A drawing belongs to the picture under it. Drawing on an image that was drawn on draws all again on that picture, and a
shape with the label of an earlier one takes its place (ViLaSR's rule), so that a mistake can be mended.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pixel_reasoner_jax.operations.arguments import (
    check_index,
    check_list,
    check_names,
    check_number,
    check_numbers,
    check_text,
    signature,
)
from pixel_reasoner_jax.operations.base import Drawing, MediaState, Operation, Result, bounded, edited
from pixel_reasoner_jax.operations.boxes import check_box
from pixel_reasoner_jax.operations.calls import OperationError
from pixel_reasoner_jax.operations.chosen_image import (
    ARGUMENTS,
    choose_image,
    describe_image,
    example_image,
    in_image,
    which_image,
)

MOST_SHAPES = 32  # on an image
LABEL = 40  # characters of a label that are drawn
COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#800000")
POINT = {"type": "array", "items": {"type": "number"}}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A box or a line.

    Attributes:
      kind: "box", whose ends are its upper left and lower right corner, or "line".
      ends: x1, y1, x2, y2 as fractions of the image's width and height.
      named: whether its label is written beside it.
    """

    kind: str
    ends: tuple[float, float, float, float]
    named: bool = True


@dataclasses.dataclass(frozen=True)
class _Draws(Operation):
    """What operations that draw share.

    Attributes:
      name, aliases: see `Operation`.
      image: which one is drawn on, see `chosen_image.ARGUMENTS`; or "index": each shape has an `index`, the same for
        all, that counts from 0 the query's images and what operations have returned.
      width: of the lines, in pixels of the image as the model is shown it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    image: str = "number"
    width: int = 4

    @abc.abstractmethod
    def shapes(self, arguments: dict[str, Any], shown: tuple[int, int]) -> dict[str, Shape]:
        """The shapes of a call by their labels, on an image that is shown as `shown`."""

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        check_names(arguments, self.arguments)
        source = self._source(arguments, state)
        shapes = self.shapes(arguments, state.shown_size(source))
        earlier = state.drawings.get(source - len(state.frames))
        if earlier is not None:
            source, shapes = earlier.source, earlier.shapes | shapes
        if len(shapes) > MOST_SHAPES:
            raise OperationError(f"an image must be drawn on with at most {MOST_SHAPES} boxes and lines, not more")
        image, shown = bounded(state.pictures[source]), state.shown_size(source)
        width = max(1, round(self.width * image.size[0] / shown[0]))
        change = functools.partial(draw, shapes=shapes, width=width)
        drawn = edited(image, change, f"draw {width} {list(shapes.items())}")
        kind, number = state.kind_of_edited(source), len(state.images) + 1
        return Result([drawn], kind, number, drawing=Drawing(source, shapes))

    def observation_text(self, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        width, height = sizes[0]
        return f"\nHere is the image with what you have drawn (Image Size: {width}x{height}):"

    def _source(self, arguments: dict[str, Any], state: MediaState) -> int:
        if self.image != "index":
            return choose_image(self.image, arguments, state, "draw on")
        if not state.pictures:
            raise OperationError("there is no image to draw on")
        items = check_list(self.arguments[0], arguments[self.arguments[0]])
        last = len(state.pictures) - 1
        chosen = {check_index("index", item.get("index", 0), 0, last, "images") for item in map(check_object, items)}
        if len(chosen) > 1:
            raise OperationError("index must be the same in all of a call; draw on one image at a time")
        return next(iter(chosen), 0)

    def _items(self, arguments: dict[str, Any], names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """The label and the rest of each item of the list in the first argument."""
        items = check_list(self.arguments[0], arguments[self.arguments[0]])
        if not 1 <= len(items) <= MOST_SHAPES:
            raise OperationError(f"{self.arguments[0]} has {len(items)} items; it must have 1 to {MOST_SHAPES}")
        optional = ("label", "index") if self.image == "index" else ("label",)
        for item in map(check_object, items):
            check_names(item, names, optional)
        return [(check_text("label", item.get("label", "")), item) for item in items]


@dataclasses.dataclass(frozen=True)
class DrawBoxes(_Draws):
    """Draws boxes, `[{"bbox_2d": [x1, y1, x2, y2], "label": …}]`, in pixels of the image as the model is shown it."""

    name: str = "draw_boxes"

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("boxes", *ARGUMENTS.get(self.image, ()))

    @property
    def phrase(self) -> str:
        return "draw boxes {boxes}" + in_image(self.image)

    def describe(self, state: MediaState) -> dict[str, Any]:
        fields = {"bbox_2d": {"description": "Pixels [x1, y1, x2, y2].", **POINT}}
        text = f"Draw boxes with labels on {which_image(self.image)}; one with an earlier label replaces that."
        return _described(self, state, "Boxes and their labels.", fields, text)

    def example(self, state: MediaState) -> dict[str, Any] | None:
        named = example_image(self.image, state)
        return None if named is None else {"boxes": [{"bbox_2d": [0, 0, 20, 20]}], **named}

    def shapes(self, arguments: dict[str, Any], shown: tuple[int, int]) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for label, item in self._items(arguments, ("bbox_2d",)):
            corners = check_numbers("bbox_2d", item["bbox_2d"], "[x1, y1, x2, y2]")
            check_box("bbox_2d", corners)
            shapes |= _labelled(label, Shape("box", _fractions(corners, shown), named=bool(label)))
        return shapes


@dataclasses.dataclass(frozen=True)
class DrawLines(_Draws):
    """Draws lines, `[{"start_point_2d": [x, y], "end_point_2d": [x, y], "label": …}]`, in pixels as `DrawBoxes`."""

    name: str = "draw_lines"

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("lines", *ARGUMENTS.get(self.image, ()))

    @property
    def phrase(self) -> str:
        return "draw lines {lines}" + in_image(self.image)

    def describe(self, state: MediaState) -> dict[str, Any]:
        ends = ("start_point_2d", "end_point_2d")
        fields = {end: {"description": "Pixels [x, y].", **POINT} for end in ends}
        text = f"Draw lines with labels on {which_image(self.image)}; one with an earlier label replaces that."
        return _described(self, state, "Lines and their labels.", fields, text)

    def example(self, state: MediaState) -> dict[str, Any] | None:
        named = example_image(self.image, state)
        return None if named is None else {"lines": [{"start_point_2d": [0, 0], "end_point_2d": [20, 20]}], **named}

    def shapes(self, arguments: dict[str, Any], shown: tuple[int, int]) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        names = ("start_point_2d", "end_point_2d")
        for label, item in self._items(arguments, names):
            ends = [number for name in names for number in check_numbers(name, item[name], "[x, y]")]
            shapes |= _labelled(label, Shape("line", _fractions(ends, shown), named=bool(label)))
        return shapes


@dataclasses.dataclass(frozen=True)
class DrawAcross(_Draws):
    """Draws a line from one side of the image to the other, at a height or a place across.

    Attributes:
      axis: "x" for a vertical line, "y" for a horizontal one. `param` says where, in hundredths of the image's width or
        height: a number, or a text that has `y=28.5` or `x="21.5" y="28.5"` in it, as OpenThinkIMG's models write.
    """

    name: str = "draw_horizontal_line"
    image: str = "name"
    axis: str = "y"
    width: int = 2

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("param", *ARGUMENTS[self.image])

    @property
    def phrase(self) -> str:
        return f"draw a line across at {self.axis} {{param}}" + in_image(self.image)

    def describe(self, state: MediaState) -> dict[str, Any]:
        which = {"x": "vertical", "y": "horizontal"}[self.axis]
        text = f"Where, in hundredths of the image: {self.axis}=28.5."
        properties = {"param": {"type": "string", "description": text}}
        properties |= describe_image(self.image, state, "draw on")
        return signature(self.name, f"Draw a {which} line across {which_image(self.image)}.", properties)

    def example(self, state: MediaState) -> dict[str, Any] | None:
        named = example_image(self.image, state)
        return None if named is None else {"param": 50, **named}

    def shapes(self, arguments: dict[str, Any], shown: tuple[int, int]) -> dict[str, Shape]:
        value = arguments["param"]
        if isinstance(value, str):
            number = r"[\"']? ?([0-9]{1,3}(?:\.[0-9]{1,20})?)(?!\.?[0-9]|[eE][-+]?[0-9])"  # and not a part of one
            found = re.search(rf"(?<![a-z]){self.axis} ?= ?{number}", value[:200])
            if not found:
                raise OperationError(f"param must be a number of hundredths in the form {self.axis}=28.5")
            value = float(found[1])
        place = check_number("param", value)
        if not 0 <= place <= 100:
            raise OperationError("param is out of range; hundredths of the image are numbered 0 to 100")
        place /= 100
        ends = (0.0, place, 1.0, place) if self.axis == "y" else (place, 0.0, place, 1.0)
        return _labelled("", Shape("line", ends, named=False))


def check_object(value: Any) -> dict[str, Any]:
    """Checks that an item of a list is an object, and returns it."""
    if not isinstance(value, dict):
        raise OperationError("what is drawn must be an array of objects")
    return value


def draw(image: Image.Image, shapes: dict[str, Shape], width: int) -> Image.Image:
    """The image with the shapes drawn on it, each in a color of its own, and their labels.

    Args:
      shapes: by their labels. Boxes hold the pixels that a crop of them would have, and their lines are inside.
      width: of lines, in pixels.
    """
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(10, 4 * width))
    for (label, shape), color in zip(shapes.items(), COLORS * (len(shapes) // len(COLORS) + 1), strict=False):
        x1, y1, x2, y2 = (round(end * side) for end, side in zip(shape.ends, image.size * 2, strict=True))
        x1, y1 = min(x1, image.width - 1), min(y1, image.height - 1)
        if shape.kind == "box":
            x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)
            inside = max(1, (min(x2 - x1, y2 - y1) + 1) // 2)  # wider ones would be painted outside
            canvas.rectangle((x1, y1, x2, y2), outline=color, width=min(width, inside))
        else:
            canvas.line((x1, y1, min(x2, image.width - 1), min(y2, image.height - 1)), fill=color, width=width)
        if shape.named:
            text = "".join(char if " " <= char <= "~" else "?" for char in label[:LABEL])
            canvas.text((x1 + width, y1 + width), text, fill=color, font=font)
    return image


def _fractions(ends: Sequence[float], shown: tuple[int, int]) -> tuple[float, ...]:
    """Pixels of an image that is shown as `shown` as fractions of it, moved into it."""
    return tuple(min(max(0.0, end / side), 1.0) for end, side in zip(ends, shown * 2, strict=True))


def _labelled(label: str, shape: Shape) -> dict[str, Shape]:
    """The shape by its label, or by where it is: drawn again without a label, it is the same."""
    return {label or f"{shape.kind} {shape.ends}": shape}


def _described(operation: _Draws, state: MediaState, what: str, fields: dict[str, Any], text: str) -> dict[str, Any]:
    label = {"type": "string", "description": "What it is."}
    properties = {**fields, "label": label}
    if operation.image == "index":
        properties = {"index": {"type": "integer", "description": "The image's number, from 0."}, **properties}
    items = {"type": "object", "properties": properties}
    lists = {operation.arguments[0]: {"type": "array", "description": what, "items": items}}
    lists |= describe_image(operation.image, state, "draw on")
    return signature(operation.name, text, lists)
