"""Arguments of operations: their description in the prompt, and checks of what a model has given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pixel_reasoner_jax.operations.base import MediaState
from pixel_reasoner_jax.operations.calls import OperationError, json_type


def signature(name: str, description: str, properties: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON function signature with `properties` as arguments, all of them required but those in `optional`."""
    required = [argument for argument in properties if argument not in optional]
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def check_names(arguments: dict[str, Any], names: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Checks that the arguments `names` are given, and none besides but those in `optional`."""
    if set(arguments) - set(optional) != set(names):
        missing = [name for name in names if name not in arguments]
        problem = f"missing {', '.join(missing)}" if missing else "unknown arguments were given"
        raise OperationError(f"{problem}; the arguments are {', '.join(names)}")


def check_list(name: str, value: Any) -> list[Any]:
    """Checks that a value is a list, and returns it."""
    if not isinstance(value, list):
        raise OperationError(f"{name} must be an array, not a JSON {json_type(value)}")
    return value


def check_text(name: str, value: Any) -> str:
    """Checks that a value is a text, and returns it."""
    if not isinstance(value, str):
        raise OperationError(f"{name} must be a string, not a JSON {json_type(value)}")
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


def check_numbers(name: str, value: Any, form: str) -> list[float]:
    """Checks that a value is a list of finite numbers in a form such as "[x1, y1, x2, y2]", and returns them."""
    names = form.strip("[]").split(", ")
    numbers = check_list(name, value)
    if len(numbers) != len(names):
        raise OperationError(f"{name} must be {_COUNTS[len(names)]} numbers {form}, not {len(numbers)}")
    return [check_number(f"the coordinates of {name}", number) for number in numbers]


_COUNTS = {2: "two", 4: "four"}


def check_index(name: str, value: Any, first: int, last: int, what: str) -> int:
    """Checks that a value is an integer (2.0 is one) from `first` to `last`; `what` says what these numbers count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise OperationError(f"{name} must be whole numbers; {what} are numbered {first} to {last}")
    if not first <= value <= last:
        raise OperationError(f"{name} is out of range; {what} are numbered {first} to {last}")
    return int(value)


def find_image(name: str, number: Any, state: MediaState, purpose: str, released: bool = False) -> int:
    """The index in `MediaState.pictures` of the picture that the argument `name` refers to.

    Args:
      number: as the model wrote it: of an image, counted from 1: the query's, then all that operations returned. For a
        video, of one of its frames until frames were selected, and then a printed number.
      purpose: what is done to the image, for the message: "crop".
      released: for a video, number images as the released code does: see `CropImage`.
    """
    numbered = state.images if released else state.selected
    if state.frames and not numbered:
        return check_index(name, number, 1, len(state.frames), "frames of the video") - 1
    if not state.images:
        raise OperationError(f"there is no image to {purpose}")
    first = 2 if released and state.frames else 1
    last = first + len(state.images) - 1
    return len(state.frames) + check_index(name, number, first, last, "images") - first


def describe_image_number(state: MediaState, purpose: str, results: str) -> str:
    """The description of an argument that `find_image` reads; `results` says what operations have returned."""
    if state.frames:
        return (
            f"The index of the image to {purpose}: from 1 to {len(state.frames)} a frame of the video, or once frames"
            " were selected, their printed number."
        )
    if state.query_images == 1:
        return f"The index of the image to {purpose}: 1 is the original image, later ones are {results} in order."
    return (
        f"The index of the image to {purpose}: 1 to {state.query_images} are the original images, later ones are"
        f" {results} in order."
    )
