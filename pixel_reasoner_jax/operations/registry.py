"""The operations that a model can call, by name."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations.base import MediaState, Operation, Result
from pixel_reasoner_jax.operations.calls import Call, OperationError, parse_call
from pixel_reasoner_jax.operations.crop import CropImage
from pixel_reasoner_jax.operations.frames import SelectFrames

_log = logging.getLogger(__name__)


class Registry:
    """Operations by name.

    Args:
      operations: in the order in which the system message describes them.
      last_wins: if a turn has several calls, take the last, as the released code does; otherwise that is an error.
    """

    def __init__(self, operations: Iterable[Operation] = (), last_wins: bool = False):
        self._operations: list[Operation] = []
        self._by_name: dict[str, Operation] = {}
        self.last_wins = last_wins
        for operation in operations:
            self.register(operation)

    def register(self, operation: Operation) -> None:
        """Adds an operation.

        Raises:
          UserError: another operation has its name or one of its aliases.
        """
        names = (operation.name, *operation.aliases)
        taken = [name for name in names if name in self._by_name]
        if taken:
            raise UserError(f"an operation named {taken[0]!r} is registered already: give one of them another name")
        self._operations.append(operation)
        self._by_name.update(dict.fromkeys(names, operation))

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations, in order."""
        return tuple(self._operations)

    def signatures(self, state: MediaState) -> list[dict[str, Any]]:
        """The JSON function signatures for a query, for `tools_section`."""
        return [operation.describe(state) for operation in self._operations if operation.offered(state)]

    def parse(self, text: str) -> Call | None | OperationError:
        """Reads the call in a turn; see `parse_call`."""
        return parse_call(text, last_wins=self.last_wins)

    def execute(self, call: Call, state: MediaState) -> Result:
        """Runs a call and numbers the images it returns.

        Raises:
          OperationError: the call cannot be executed, or the operation has raised an exception; `state` is unchanged.
        """
        operation = self._find(call)
        try:
            result = operation.run(call.arguments, state)
        except OperationError:
            raise
        except Exception as error:  # an operation's own bug must not end the run of all other episodes
            _log.exception("operation %s failed", operation.name)
            raise OperationError(f"{operation.name} failed ({type(error).__name__})") from error
        state.append(result)
        return result

    def observation_text(self, call: Call, result: Result, sizes: Sequence[tuple[int, int]]) -> str:
        """The text before the images of a result; `sizes` are their (width, height) after resizing."""
        return self._find(call).observation_text(result, sizes)

    def _find(self, call: Call) -> Operation:
        if call.name not in self._by_name:
            names = ", ".join(operation.name for operation in self._operations)
            name = json.dumps(call.name[:40])  # in ASCII, whatever characters the model wrote
            raise OperationError(f"there is no function named {name}; the functions are {names}")
        return self._by_name[call.name]


def default_registry(padding: float = 0.1, release: bool = False, box_rule: str = "shown") -> Registry:
    """The registry with `crop_image_normalized` (also `crop_image` and `zoom_in`) and `select_frames`.

    Args:
      padding: how far crops are widened on every side, as a fraction of the image's side.
      release: do as the released code: its signatures, its rule of boxes, crops of the image as it is shown, its
        numbering for videos, at most 600 pixels of padding if the call is named `zoom_in`, and the last of several
        calls in a turn counts.
      box_rule: how boxes are read, "shown" or "raw"; see `CropImage`.
    """
    if not release:
        return Registry([CropImage(padding, box_rule=box_rule), SelectFrames()])
    crop = CropImage(padding, aliases=("crop_image",), release=True, box_rule=box_rule)
    zoom_in = dataclasses.replace(crop, padding_limit=600, name="zoom_in", aliases=(), listed=False)
    return Registry([crop, SelectFrames(release=True), zoom_in], last_wins=True)
