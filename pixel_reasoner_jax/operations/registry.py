"""The operations that a model can call, by name."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from pixel_reasoner_jax.config_values import CROP, DEFAULT_OPERATIONS, DEFAULT_SYNTAX
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.operations.base import MediaState, Operation, Result
from pixel_reasoner_jax.operations.calls import Call, OperationError
from pixel_reasoner_jax.operations.known import check_allowed, make_operation
from pixel_reasoner_jax.operations.syntaxes import Syntax, ToolCallTags, make_syntax

_log = logging.getLogger(__name__)


class Registry:
    """Operations by name, and how they are called.

    Args:
      operations: in the order in which the system message describes them.
      syntax: of calls.
    """

    def __init__(self, operations: Iterable[Operation] = (), syntax: Syntax = ToolCallTags()):  # noqa: B008 - frozen
        self._operations: list[Operation] = []
        self._by_name: dict[str, Operation] = {}
        self.syntax = syntax
        for operation in operations:
            self.register(operation)

    def register(self, operation: Operation) -> None:
        """Adds an operation.

        Raises:
          UserError: another operation has its name or one of its aliases, or it does not fit the syntax.
        """
        names = (operation.name, *operation.aliases)
        taken = [name for name in names if name in self._by_name]
        if taken:
            raise UserError(f"an operation named {taken[0]!r} is registered already: give one of them another name")
        self.syntax.form([*self._operations, operation])
        self._operations.append(operation)
        self._by_name.update(dict.fromkeys(names, operation))

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations, in order."""
        return tuple(self._operations)

    def signatures(self, state: MediaState) -> list[dict[str, Any]]:
        """The JSON function signatures for a query, for `tools_section`."""
        return [operation.describe(state) for operation in self._operations if operation.offered(state)]

    def tools_section(self, state: MediaState) -> str:
        """The text of the system message that describes the operations to a query, and how they are called."""
        return self.syntax.tools_section(self.signatures(state), self._operations)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts with which a turn ends because a call does; see `Syntax.stop_strings`."""
        return self.syntax.stop_strings(self._operations)

    def parse(self, text: str) -> Call | None | OperationError:
        """Reads the call in a turn; see `Syntax.parse`. What a syntax of one's own raises is an error of the call."""
        try:
            read = self.syntax.parse(text, self._operations)
            if read is not None and not isinstance(read, Call | OperationError):
                raise TypeError(f"{type(self.syntax).__name__}.parse returned {shown(read)}, which is no Call")
        except Exception as error:  # whatever the model has written, it must not end all other episodes
            _log.exception("the syntax %s failed", type(self.syntax).__name__)
            return OperationError(f"reading the function call failed ({type(error).__name__})")
        return read

    def write(self, call: Call) -> str:
        """The text of a turn that makes a call; see `Syntax.write`."""
        return self.syntax.write(self._find(call), call.arguments)

    def execute(self, call: Call, state: MediaState) -> Result:
        """Runs a call and numbers the images it returns.

        Raises:
          OperationError: the call cannot be executed, or the operation has raised an exception; `state` is unchanged.
        """
        operation = self._find(call)
        try:
            result = operation.run(_named(call.arguments, operation), state)
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


def _named(arguments: dict[str, Any], operation: Operation) -> dict[str, Any]:
    """Arguments under the names that the operation knows; an alias beside that name stays, for the check to refuse."""
    aliases = operation.argument_aliases
    names = {name: name if aliases.get(name, name) in arguments else aliases[name] for name in arguments}
    if len(set(names.values())) < len(names):  # two aliases of one argument
        return arguments
    return {names[name]: value for name, value in arguments.items()}


def make_registry(
    names: Sequence[str] = DEFAULT_OPERATIONS,
    syntax: str = DEFAULT_SYNTAX,
    padding: float = 0.1,
    release: bool = False,
    box_rule: str = "shown",
) -> Registry:
    """The registry of operations by their names.

    Args:
      names: keys of `known.OPERATIONS`, or one's own as `module:name`, in the order of the system message.
      syntax: a key of `syntaxes.SYNTAXES`, or one's own as `module:name`.
      padding: how far `crop_image_normalized` widens crops on every side, as a fraction of the image's side.
      release: `crop_image_normalized` and `select_frames` do as in the released code: its signatures, its rule of
        boxes, crops of the image as it is shown, its numbering for videos, at most 600 pixels of padding if the call is
        named `zoom_in`, and in `<tool_call>` tags the last of several calls in a turn counts.
      box_rule: how its boxes are read, "shown" or "raw"; see `CropImage`.

    Raises:
      UserError: a name is not known, an operation of one's own was not allowed (`known.allow_own`), or two operations
        have one name.
    """
    operations = [make_operation(name, padding, release, box_rule) for name in names]
    if release and CROP in names:
        crop = operations[list(names).index(CROP)]
        operations.append(dataclasses.replace(crop, padding_limit=600, name="zoom_in", aliases=(), listed=False))
    check_allowed(syntax, "syntax of calls")
    own = ToolCallTags(last_wins=release) if syntax == DEFAULT_SYNTAX else make_syntax(syntax)
    return Registry(operations, own)


def default_registry(padding: float = 0.1, release: bool = False, box_rule: str = "shown") -> Registry:
    """The registry with `crop_image_normalized` (also `crop_image` and `zoom_in`) and `select_frames`.

    See `make_registry`.
    """
    return make_registry(padding=padding, release=release, box_rule=box_rule)
