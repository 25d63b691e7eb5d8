"""Experiment files: loading, overriding and checking.

An experiment is a Python file with `get_config()`, which returns an `ml_collections.ConfigDict`. The settings of a
command are all documented in one file, the command's reference in `configs/`, for example configs/rl_qwen2_5_vl_7b.py.
Other experiments state only what they change: they return a `variant` of the reference, or of another variant.

    def get_config():
        return variant("rl_qwen2_5_vl_7b", {"optimizer.learning_rate": 2e-6, "train.epochs": 2})

Whatever a file returns is checked against the reference: a key the reference does not have, or a value of another type,
is an error. A key left out takes the reference's value, but the sections that make it a config of its command
(`SECTIONS`) must be there. Some sections may get more entries than the reference has (`config_values.OPEN`).

The configs in `configs/` and its folders are installed with the package and found from any directory by their names.
A config has one name, its path below `configs/` without ".py": "rl_qwen2_5_vl_7b", "recipes/deepeyes". The last part of
a name begins with the config's command; those in `configs/recipes/`, methods by their names, are configs of `rl`.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from pixel_reasoner_jax.config_values import OPEN, OPTIONAL, RULES, is_finite
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.packaged_configs import config_files

SECTIONS = {"rl": ("rollout", "curiosity", "grpo")}  # sections that only the configs of this command have
RECIPES = "recipes"  # the folder whose configs are all of `rl`


class ConfigError(UserError):
    """A config or override that the user has to correct; the message says which and how."""


def load_config(
    path: str | pathlib.Path, overrides: Iterable[tuple[str, str]] = (), reference: str | None = None
) -> ConfigDict:
    """Loads an experiment file, completes and checks it, and applies overrides.

    Args:
      path: a Python file with `get_config()`; or the name of a packaged config, if there is no such file, which may
        begin with "configs/" and end in ".py" ("quickstart", "configs/rl_qwen2_5_vl_7b.py").
      overrides: (dotted key, value as text), in order, for example ("optimizer.learning_rate", "1e-6").
      reference: name of the packaged config that has every key; None checks overrides against the file alone.

    Raises:
      ConfigError: no such file, a config of another command, an unknown key (the message names the nearest known one),
        a value of the wrong type or out of range.
    """
    config = _read(path)
    if reference is not None:
        _check_command(config, reference.split("_")[0], str(path))
        complete = _read(reference)
        _merge(complete, config, str(path))
        config = complete
    for key, text in overrides:
        _override(config, key, text)
    check_values(config)
    return config


def variant(base: str | pathlib.Path, differences: Mapping[str, Any]) -> ConfigDict:
    """A config that differs from another one in a few values; the `get_config()` of a variant returns it.

    Args:
      base: the other config, as `load_config` takes it. For a file in the folder of the variant itself, write
        `pathlib.Path(__file__).with_name("base.py")`: relative paths begin where the command is started.
      differences: values by dotted key, for example {"optimizer.learning_rate": 2e-6}. Include "workdir", or runs of
        both configs use the same directory.

    Raises:
      ConfigError: no such base, a key that the base does not have (the message names the nearest one), a value of
        another type.
    """
    config = _read(base)
    for path, value in differences.items():
        section, key = locate(config, path)
        _assign(section, key, value, path, f"variant of {base}")
    return config


def config_names(command: str = "") -> list[str]:
    """Names of the packaged configs, those in folders last; `command` selects the configs of one command."""
    names = [name for name in config_files() if _command(name).startswith(command)]
    return sorted(names, key=lambda name: (name.count("/"), name))


def check_values(config: ConfigDict) -> None:
    """Raises a `ConfigError` that names the first value out of range."""
    for path, value in leaves(config):
        if not is_finite(value):
            raise ConfigError(f"config.{path} is {shown(value)}: no number may be infinite or NaN")
        keys = [key for key in RULES if _ends_in(path, key)]
        if not keys or value is None:
            continue
        test, wanted = RULES[max(keys, key=len)]
        if not test(value):
            raise ConfigError(f"config.{path} is {shown(value)}: it must be {wanted}")


def _command(name: str) -> str:
    """What the name of a packaged config begins with to name its command."""
    return "rl" if name.startswith(f"{RECIPES}/") else name.rpartition("/")[2]


def _find(path: str | pathlib.Path) -> pathlib.Path:
    file = pathlib.Path(path)
    if file.is_file():
        return file
    packaged, name = config_files(), file.as_posix().removeprefix("configs/").removesuffix(".py")
    if name in packaged:
        return packaged[name]
    last = name.rpartition("/")[2]
    same = [known for known in config_names() if known.rpartition("/")[2] == last]  # in another folder
    hint = f"; did you mean {' or '.join(same)}?" if same else _nearest(name, config_names())
    raise ConfigError(f"there is no config {str(path)!r}{hint}")


def _read(path: str | pathlib.Path) -> ConfigDict:
    file = _find(path)
    spec = importlib.util.spec_from_file_location(f"pixel_reasoner_config_{file.stem}", file)
    if spec is None:
        raise ConfigError(f"{file} is not a Python file: name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{file} has no get_config(): define one that returns a ConfigDict")
        config = module.get_config()
    except ConfigError as error:  # of `variant`, which does not know the file that calls it
        if str(file) in str(error):
            raise
        raise ConfigError(f"{file}: {error}") from error
    except RecursionError:
        raise ConfigError(f"{file} calls itself without end: is it a variant of itself? Name another base") from None
    except Exception as error:
        raise ConfigError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config() of {file} must return a ConfigDict, not {type(config).__name__}")
    return config


def _check_command(config: ConfigDict, command: str, where: str) -> None:
    """Refuses a config of another command: what it lacks would silently become the reference's."""
    for owner, sections in SECTIONS.items():
        for section in sections:
            if owner == command and section not in config:
                raise ConfigError(
                    f"{where} has no section {section}, which `{command}` needs: is it a config of another command?"
                )
            if owner != command and section in config:
                raise ConfigError(
                    f"{where} has a section {section}, which `{command}` does not know: is it a config of `{owner}`?"
                )


def _merge(target: ConfigDict, source: ConfigDict, where: str, prefix: str = "") -> None:
    """Sets the values of `source` in `target`, which has all keys and types."""
    for key in source:
        path = f"{prefix}{key}"
        _open(target, key, prefix)
        if key not in target:
            raise ConfigError(f"{where}: unknown key config.{path}{_nearest(key, list(target), f'config.{prefix}')}")
        value = source[key]
        if isinstance(target[key], ConfigDict) != isinstance(value, ConfigDict):
            section = isinstance(target[key], ConfigDict)
            wanted = f"a section with {', '.join(target[key])}" if section else f"a single value like {target[key]!r}"
            raise ConfigError(f"{where}: config.{path} must be {wanted}")
        if isinstance(value, ConfigDict):
            _merge(target[key], value, where, f"{path}.")
        else:
            _assign(target, key, value, path, where)


def _override(config: ConfigDict, path: str, text: str) -> None:
    """Sets the value at a dotted key, given as text."""
    section, key = locate(config, path)
    value: Any = text
    if section.get_type(key) is not str:
        try:
            value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            # It stays text, which the type check refuses; but names with commas between them are a tuple.
            value = tuple(text.split(",")) if section.get_type(key) is tuple else text
    elif text.lower() == "none" and _is_optional(path):
        value = None
    _assign(section, key, value, path, f"--config.{path}={text}")


def locate(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """The section that holds the value of a dotted key, and the last part of the key."""
    section, parts = config, path.split(".")
    for depth, part in enumerate(parts):
        prefix = "".join(f"{name}." for name in parts[:depth])
        _open(section, part, prefix)
        if part not in section:
            hint = _elsewhere(config, ".".join(parts[depth:])) or _nearest(part, list(section), f"config.{prefix}")
            raise ConfigError(f"unknown key config.{prefix}{part}{hint}")
        last = depth == len(parts) - 1
        if isinstance(section[part], ConfigDict) == last:
            has = f"a section; it has {', '.join(section[part])}: set one of these" if last else None
            raise ConfigError(f"config.{prefix}{part} is {has or 'a value and has no keys: set it itself'}")
        if not last:
            section = section[part]
    return section, parts[-1]


def _open(section: ConfigDict, label: str, prefix: str) -> None:
    """Adds an entry to a section that may have more of them, such as "rewards.terms."."""
    entry = next((entry for path, entry in OPEN.items() if _ends_in(prefix, f"{path}.")), None)
    if entry is not None and label not in section:
        section[label] = ConfigDict(entry)


def _assign(section: ConfigDict, key: str, value: Any, path: str, where: str) -> None:
    """Sets a value, whose type must be that of the key's present value.

    An integer may be given for a float, a list for a tuple, and None for an `OPTIONAL` setting.
    """
    wanted = section.get_type(key)
    if isinstance(value, int) and not isinstance(value, bool) and wanted is float:
        value = float(value)
    if isinstance(value, list) and wanted is tuple:
        value = tuple(value)
    optional = _is_optional(path)
    if not (value is None and optional) and wanted is not type(None) and type(value) is not wanted:
        name = wanted.__name__ + (" or None" if optional else "")
        raise ConfigError(f"{where}: config.{path} must be {name}, got {value!r}")
    bounds = isinstance(section[key], tuple) and [type(entry) for entry in section[key]] == [int, int]
    if bounds and value is not None and [type(entry) for entry in value] != [int, int]:
        raise ConfigError(f"{where}: config.{path} must be two integers, like {section[key]!r}, got {value!r}")
    section[key] = value


def _is_optional(path: str) -> bool:
    return any(_ends_in(path, key) for key in OPTIONAL)


def _ends_in(path: str, key: str) -> bool:
    """Whether a dotted key is `key`, or ends in its parts, of which "*" is any."""
    if "*" not in key:
        return f".{path}".endswith(f".{key}")
    parts, ends = path.split("."), key.split(".")
    return len(parts) >= len(ends) and all(
        end in (part, "*") for part, end in zip(parts[-len(ends) :], ends, strict=True)
    )


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a config with its value."""
    for key in config:
        if isinstance(config[key], ConfigDict):
            yield from leaves(config[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", config[key]


def _elsewhere(config: ConfigDict, rest: str) -> str:
    """A hint that names the keys that end in `rest`, for a user who left out the section or named another one."""
    same = [f"config.{path}" for path, _ in leaves(config) if f".{path}".endswith(f".{rest}")]
    return f"; did you mean {' or '.join(same)}?" if same else ""


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(known)}"
