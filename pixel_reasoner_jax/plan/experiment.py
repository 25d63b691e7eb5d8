"""What to plan: an experiment and its model's sizes, of which no file but the config need be here."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import SECTIONS, ConfigError, load_config
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.models import Config

PRESETS = ("3b", "7b", "32b", "72b", "tiny")


def load_experiment(
    path: str, overrides: Iterable[tuple[str, str]] = (), preset: str | None = None
) -> tuple[ConfigDict, Config]:
    """Reads an experiment of `rl`, `sft` or `quickstart`, whose reinforcement learning is planned.

    Args:
      path, overrides: see `config.load_config`.
      preset: sizes of the model; None: those of the config's model, or, where its directory is not here, the size that
        the directory's name ends in.

    Raises:
      ConfigError: a mistake in the config, or sizes that are nowhere to be found.
    """
    config = load_config(path)
    if "rl" in config:
        from pixel_reasoner_jax.quickstart import phase_config

        config = load_config(path, overrides, "quickstart")
        preset = preset or config.model.preset
        return phase_config(config, "rl", pathlib.Path(config.workdir), "", ""), Config.preset(preset)
    command = next((owner for owner, sections in SECTIONS.items() if any(name in config for name in sections)), "sft")
    config = load_config(path, overrides, f"{command}_qwen2_5_vl_7b")
    return config, _sizes(config.model.directory, preset)


def _sizes(directory: str, preset: str | None) -> Config:
    file = as_path(directory) / "config.json"
    if preset is not None:
        return Config.preset(preset)
    if file.exists():
        return Config.from_hf(json.loads(file.read_text(encoding="utf-8")))
    words = re.split(r"[-_/.]", str(directory).lower())
    if named := [word for word in words if word in PRESETS]:
        return Config.preset(named[-1])
    raise ConfigError(
        f"there is no {file}, and its name says no size: give one with --preset, one of {', '.join(PRESETS)}"
    )
