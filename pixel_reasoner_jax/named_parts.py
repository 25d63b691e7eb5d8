"""Parts that a setting names: one of ours by its name, or one's own as `module:name`.

A packaged config names functions of its own file likewise: `recipes/deepeyes:helpful_operation`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.packaged_configs import config_files, config_module

Made = TypeVar("Made")

AS_IMPORT = "name a module as `import` does, such as my_module:function"


def find_part(name: str, known: Mapping[str, Any], kind: str, own: str = "module:function") -> Any:
    """The part of a name.

    Args:
      name: a key of `known`; or a module that can be imported, or a packaged config, then a colon and the part's name.
      known: our own parts.
      kind: what a part is, for the message: "scorer".
      own: the form of one's own, for the message.

    Raises:
      UserError: there is no such part, its module cannot be imported, or one's own cannot be called.
    """
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"unknown {kind} {name!r}; known: {', '.join(known)}, or {own} of your own")
    is_config = "/" in module and module in config_files()
    if not is_config and ("/" in module or module.startswith(".")):
        raise UserError(f"{kind} {name!r} cannot be imported: {AS_IMPORT}")
    try:
        part = getattr(config_module(module) if is_config else importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{kind} {name!r} cannot be imported: {error}{_hint(module, error)}") from None
    if not callable(part):
        raise UserError(f"{kind} {name!r} is {shown(part)}: it must be a function, or something else to call")
    return part


def make_part(name: str, known: Mapping[str, Callable[[], Any]], kind: str, base: type[Made], base_name: str) -> Made:
    """What the class of a name makes, or a function of it.

    Args:
      name, known, kind: see `find_part`.
      base, base_name: what it must be, and how the message names that.

    Raises:
      UserError: see `find_part`; or it makes something else, or nothing without arguments.
    """
    make = find_part(name, known, kind, "module:class")
    if isinstance(make, type) and (missing := sorted(getattr(make, "__abstractmethods__", ()))):
        raise UserError(f"{kind} {name!r} lacks {', '.join(missing)}: a class of {base_name} must define them")
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UserError(f"{kind} {name!r} must be made without arguments: {error}") from None
    except ValueError:  # of a function that is not Python's nothing is known
        pass
    made = make()
    if not isinstance(made, base):
        raise UserError(f"{kind} {name!r} makes a {type(made).__name__}, which is no {base_name}")
    return made


def numbers_of(part: str, returned: Any, shape: tuple[int, ...], of: str) -> np.ndarray:
    """What a part has returned, float64.

    Args:
      part: names it, for the message: "advantage 'my_module:my_function'".
      returned: by a function that may be one's own.
      shape: that it must have.
      of: what there is a number of, for the message: "responses".

    Raises:
      UserError: it is something else than a number, finite in float32, for each of them.
    """
    try:
        numbers = np.asarray(returned, np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array(np.nan)
    with np.errstate(over="ignore"):
        finite = np.isfinite(numbers.astype(np.float32)).all()
    if numbers.shape == shape and finite:
        return numbers
    got = returned.tolist() if hasattr(returned, "tolist") else returned
    raise UserError(
        f"the {part} must be a finite number for each of {' x '.join(map(str, shape))} {of}; it is {shown(got)},"
        f" of shape {np.shape(numbers)}"
    )


def _hint(module: str, error: Exception) -> str:
    if module.endswith(".py"):
        return f"; {AS_IMPORT}"
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        return "; it is looked for in the folder where the command is started and in PYTHONPATH"
    return ""
