"""What the trained policy is set to: by the config, and where that leaves it open, as the first model was."""

from __future__ import annotations

import dataclasses
import sys

from ml_collections import ConfigDict

from pixel_reasoner_jax.processing.preprocessor import PreprocessorFiles
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.rollout.settings import PolicySettings


def say_other_budgets(config: ConfigDict) -> None:
    """Says on standard error which budgets of the config are not those that the first model was trained with."""
    saved = PreprocessorFiles.read(config.model.directory).image.get("budgets", {})
    now = {name: list(value) if isinstance(value, tuple) else value for name, value in config.processor.items()}
    if other := [name for name in saved if now.get(name) is not None and now[name] != saved[name]]:
        settings = ", ".join(f"config.processor.{name} = {now[name]} (the model's: {saved[name]})" for name in other)
        text = f"{config.model.directory} was trained with other budgets, which None in their place takes: {settings}"
        print(text, file=sys.stderr, flush=True)


def policy_settings(config: ConfigDict) -> PolicySettings:
    """The settings of the trained policy: those of the config, and for the others those of the first model."""
    settings = PolicySettings.load(config.model.directory)
    given = {name: value for name, value in config.operations.items() if value is not None}
    if "names" in given:
        given["operations"] = given.pop("names")
    settings = dataclasses.replace(settings, **given)
    settings.registry()  # a mistake in the names shows before a large model is loaded
    return dataclasses.replace(settings, limits=rollout_limits(config.rollout)) if "rollout" in config else settings


def rollout_limits(rollout: ConfigDict) -> Limits:
    """The limits that a `rollout` section sets."""
    return Limits(**{field.name: rollout[field.name] for field in dataclasses.fields(Limits)})
