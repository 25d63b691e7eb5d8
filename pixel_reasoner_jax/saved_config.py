"""The config that a run saves in its directory, and what of it may change when the run goes on."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError, leaves, locate
from pixel_reasoner_jax.config_values import (
    DEFAULT_OPERATIONS,
    DEFAULT_SYNTAX,
    EARLIER_BOX_RULE,
    EARLIER_POSITION_RULE,
)
from pixel_reasoner_jax.files import as_path, check_folder, write_text

FILE = "config.json"  # the resolved config in a run's directory
FIXED = (
    "seed",
    "model.directory",
    "model.position_rule",
    "operations.release",
    "operations.box_rule",
    "operations.names",
    "operations.syntax",
    "operations.guidelines",
    "data.path",
    "data.mixture",
    "data.shuffle",
    "data.shards",
    "data.pass_rates",
    "data.held_out",
    "train.batch_size",
    "train.freeze_vision",
    "optimizer.master_weights",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "rewards.rules",
    "rollout.samples",
    "grpo.queries_per_episode",
)
"""Settings that a resumed run may not change: its position in the data, its steps, its state and the rules by which it
was trained so far depend on them."""
EARLIER = {
    "model.position_rule": EARLIER_POSITION_RULE,
    "operations.box_rule": EARLIER_BOX_RULE,
    "data.shuffle": True,
    "data.held_out": 0.0,
    "operations.names": list(DEFAULT_OPERATIONS),  # as JSON has them
    "operations.syntax": DEFAULT_SYNTAX,
    "operations.guidelines": None,
}
"""Rules that a run keeps to its end, and a model for ever: by dotted key, what holds for a run that began before it was
a setting."""


def open_workdir(config: ConfigDict, resume: bool) -> pathlib.Path:
    """Checks that a run with this config may use `config.workdir`, and returns its path; writes nothing.

    For a resumed run, each setting that has changed is printed on standard error, one line for each.

    Raises:
      ConfigError: the directory holds a run and `resume` is False, or a setting has changed that a resumed run may not
        change (`FIXED`).
      UserError: the directory, or one above it, is a file.
    """
    workdir = as_path(config.workdir)
    check_folder(workdir)
    if not (workdir / FILE).exists():
        return workdir
    if not resume:
        raise ConfigError(
            f"{workdir} already holds a run: go on with it with --resume (from the beginning, if it has saved nothing"
            " yet), or choose another directory with --config.workdir=DIRECTORY"
        )
    changed, saved = changes(config, workdir), EARLIER.keys() | dict(leaves(load_saved(workdir)))
    for path in FIXED:
        if path in changed:
            before, now = changed[path]
            if path not in saved:
                raise ConfigError(
                    f"the run in {workdir} was started before config.{path} was a setting, under rules that this"
                    " version does not have: start a new run with --config.workdir=DIRECTORY"
                )
            raise ConfigError(
                f"config.{path} is {now!r}, but the run in {workdir} was started with {before!r} and cannot go on with"
                " another: leave it, or start a new run with --config.workdir=DIRECTORY"
            )
    settings = dict(leaves(config))
    for path, (before, now) in changed.items():
        is_now = f"is {now!r} from here on" if path in settings else "is no longer a setting"
        print(f"config.{path} {is_now}; it was {before!r}", file=sys.stderr)
    return workdir


def take_over(config: ConfigDict) -> None:
    """Takes what `config` leaves open from the run in `config.workdir`, if any.

    That is rules, budgets, `data.shards` and `rollout.slots`.
    """
    if not (as_path(config.workdir) / FILE).exists():
        return
    saved, now = dict(leaves(load_saved(config.workdir))), dict(leaves(config))
    for path, earlier in EARLIER.items():
        if path in now and now[path] is None:
            section, key = locate(config, path)
            kept = saved.get(path, earlier)
            section[key] = tuple(kept) if isinstance(kept, list) else kept
    for key, value in config.get("processor", {}).items():
        if value is None and (before := saved.get(f"processor.{key}")) is not None:
            config.processor[key] = tuple(before) if isinstance(before, list) else before
    config.data.shards = config.data.shards or saved.get("data.shards", 0)
    if now.get("rollout.slots") == 0:  # as many as there was memory for when the run began
        config.rollout.slots = saved.get("rollout.slots", 0)
        decided = [saved.get("rollout.cache_tokens", 0), config.rollout.cache_tokens]
        config.rollout.cache_tokens = min(filter(None, decided), default=0)


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the resolved config into a directory, which from then on holds a run."""
    write_text(workdir / FILE, config.to_json_best_effort(indent=2) + "\n")


def load_saved(workdir: str | pathlib.Path) -> ConfigDict:
    """Reads the resolved config of an earlier run, with lists in place of tuples.

    Raises:
      ConfigError: the directory holds no run, or its config is damaged.
    """
    file = as_path(workdir) / FILE
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if not saved:  # `ConfigDict` takes null for a config without settings
            raise ValueError("it is empty")
        return ConfigDict(saved)
    except FileNotFoundError:
        raise ConfigError(
            f"{workdir} holds no run: there is no {file.name} in it; name the config.workdir of a run"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} is not the config that a run saved ({error}): restore it, or remove it") from error


def changes(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, tuple[Any, Any]]:
    """The settings that differ from those of the run in a directory; `EARLIER` holds for rules that it does not name.

    Returns:
      (value before, value now) by dotted key; None stands for a key that one of the configs does not have.
    """
    now = dict(leaves(ConfigDict(json.loads(config.to_json_best_effort()))))
    earlier = {path: rule for path, rule in EARLIER.items() if path in now}
    before = earlier | dict(leaves(load_saved(workdir)))
    pairs = {path: (before.get(path), now.get(path)) for path in now | before}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}
