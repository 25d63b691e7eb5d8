"""Which image of the conversation a call is about: by its number, by its name, or always the first or the last."""

from __future__ import annotations

import re
from typing import Any

from pixel_reasoner_jax.operations.arguments import check_text, describe_image_number, find_image
from pixel_reasoner_jax.operations.base import MediaState
from pixel_reasoner_jax.operations.calls import OperationError

ARGUMENTS = {"number": ("target_image",), "source": ("source",), "name": ("image",), "first": (), "last": ()}
"""For each rule, the argument that names the image.

| rule | the image |
|---|---|
| `number` | counted as `crop_image_normalized` does: `arguments.find_image` |
| `source` | "original_image", the query's first; "observation_1" and so on, what operations have returned |
| `name` | "img_1" and so on: the query's, then what operations have returned; of a video, its frames before these |
| `first` | the query's first |
| `last` | the one that was shown last |
"""

_WHICH = {"first": "the original image", "last": "the last image shown"}


def describe_image(rule: str, state: MediaState, purpose: str) -> dict[str, Any]:
    """The properties, of a JSON function signature, that name the image; `purpose` says what is done to it: "crop"."""
    if rule == "number":
        text = describe_image_number(state, purpose, "those that operations returned,")
        return {"target_image": {"type": "number", "description": text}}
    if rule == "source":
        text = f"The image to {purpose}: original_image, or observation_1, observation_2 and so on."
        return {"source": {"type": "string", "description": text}}
    if rule == "name":
        text = f"The image to {purpose}: img_1 is the first, and each that an operation returns is the next."
        return {"image": {"type": "string", "description": text}}
    return {}


def in_image(rule: str) -> str:
    """How the phrase of an operation (`Operation.phrase`) ends, with the argument that names the image, if any."""
    return {"number": " in image {target_image}", "source": " in {source}", "name": " in {image}"}.get(rule, "")


def example_image(rule: str, state: MediaState) -> dict[str, Any] | None:
    """The argument that names the image that the model was shown first; None if there is none."""
    values = {"number": 1, "source": "original_image", "name": "img_1"}
    return {name: values[rule] for name in ARGUMENTS.get(rule, ())} if state.pictures else None


def which_image(rule: str) -> str:
    """Names the image in the description of an operation."""
    return _WHICH.get(rule, "an image")


def choose_image(rule: str, arguments: dict[str, Any], state: MediaState, purpose: str) -> int:
    """The index in `MediaState.pictures` of the image that a call is about; its argument is there, and may be anything.

    Raises:
      OperationError: there is no such image.
    """
    if rule == "number":
        return find_image("target_image", arguments["target_image"], state, purpose)
    count = len(state.pictures)
    if not count:
        raise OperationError(f"there is no image to {purpose}")
    if rule == "first":
        return 0
    if rule == "last":
        return count - 1
    if rule == "name":
        return _numbered("image", arguments["image"], "img", count) - 1
    text = check_text("source", arguments["source"])
    if text == "original_image":
        return 0
    before = len(state.frames) + state.query_images
    return before + _numbered("source", text, "observation", count - before) - 1


def _numbered(argument: str, value: Any, word: str, last: int) -> int:
    """The number of "word_number", from 1 to `last`."""
    found = re.fullmatch(rf"{word}_([1-9][0-9]{{0,5}})", check_text(argument, value))
    if found and int(found[1]) <= last:
        return int(found[1])
    first = "original_image or " if argument == "source" else ""
    known = f"{word}_1 to {word}_{last}" if last else f"{word}_1 and so on, and there is none yet"
    raise OperationError(f"{argument} must be {first}{known}")
