"""Settings that change from episode to episode, as `config.schedules` says: each a number along a curve.

An episode has a config of its own, with the values of its progress. What the compiled loss reads of it comes as a
detail filled with the value, so that no update is compiled again; what nobody schedules is a constant in the program.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError, check_values
from pixel_reasoner_jax.named_parts import find_part, numbers_of
from pixel_reasoner_jax.saved_config import FIXED

# Whose numbers an episode reads anew, and single ones.
SECTIONS = ("auxiliary", "curiosity", "grpo", "passes", "replay", "rewards", "rollout.subgroups")
SINGLE = ("rollout.temperature", "rollout.later_temperature")
CARRIED = ("curiosity.alpha", "curiosity.beta")  # the run's own, once it has begun
IN_LOSS = ("auxiliary.", "grpo.")  # beginnings of the keys that a compiled loss may read


def linear(progress: float, first: float, last: float) -> float:
    return first + (last - first) * progress


def cosine(progress: float, first: float, last: float) -> float:
    """From the first value to the last along half a wave; to 0 it is (first / 2)(1 + cos(pi * progress))."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * progress))


def steps(progress: float, *values: float) -> float:
    """Each value for an equal part of the run."""
    return values[min(int(progress * len(values) + 1e-9), len(values) - 1)]


CURVES: dict[str, Callable[..., float]] = {"linear": linear, "cosine": cosine, "steps": steps}
"""By the name in an entry of `config.schedules`, or module:function: functions of the progress, from 0 to 1, and of the
entry's values that return the setting's value."""


def progress_of(episode: int, episodes: int) -> float:
    """How far a run is in an episode, numbered from 1: 0 in the first and 1 in the last."""
    return (episode - 1) / max(episodes - 1, 1)


def values_at(config: ConfigDict, progress: float) -> dict[str, float]:
    """The values of the settings that are scheduled, by dotted key, at a progress from 0 to 1."""
    found = {}
    for key, curve, *values in config.schedules:
        value = find_part(curve, CURVES, "curve")(progress, *map(float, values))
        found[key] = float(numbers_of(f"curve {curve!r} at {progress:.3g}", value, (), "settings"))
    return found


def config_at(config: ConfigDict, progress: float) -> ConfigDict:
    """An experiment's config with these values; the config itself where nothing is scheduled."""
    return _with(config, values_at(config, progress)) if config.schedules else config


def is_on(config: ConfigDict, key: str) -> bool:
    """Whether a coefficient has a part in a run: it is not 0, or it is scheduled."""
    return bool(_locate(config, key)) or is_scheduled(config, key)


def is_scheduled(config: ConfigDict, key: str) -> bool:
    """Whether a setting, by its dotted key, changes over the run."""
    return key in _keys(config)


def scheduled_details(config: ConfigDict) -> tuple[str, ...]:
    """The keys of the scheduled settings that the compiled loss may read, which are the names of its details."""
    return tuple(key for key in _keys(config) if key.startswith(IN_LOSS))


def value_of(config: ConfigDict, key: str) -> float:
    """The value of a dotted key."""
    return float(_locate(config, key))


def with_scheduled(config: ConfigDict, section: str, values: dict[str, Any]) -> ConfigDict:
    """A section of the config with other values, whatever their types; the section itself where there are none.

    Args:
      config: the experiment.
      section: "grpo".
      values: by dotted key of the config, those of other sections too.
    """
    own = {key: value for key, value in values.items() if key.startswith(f"{section}.")}
    return _with(config, own)[section] if own else config[section]


def check_schedules(config: ConfigDict) -> None:
    """Checks that the settings that are scheduled are numbers that an episode may change, and their values allowed.

    Raises:
      ConfigError: one is not; the message names it.
      UserError: a curve of one's own is not there, or gives no number.
    """
    keys = _keys(config)
    for key, _, *values in config.schedules:
        where = f"config.schedules: {key!r}"
        if keys.count(key) > 1:
            raise ConfigError(f"{where} is there more than once")
        if not (key.startswith(tuple(f"{name}." for name in SECTIONS)) or key in SINGLE) or key in (*FIXED, *CARRIED):
            may = f"numbers of {', '.join(SECTIONS)}, {' and '.join(SINGLE)}"
            but = (
                f"; {' and '.join(CARRIED)} are the run's own: schedule the weight of a term" if key in CARRIED else ""
            )
            raise ConfigError(f"{where} cannot be scheduled; {may} can{but}")
        try:
            value = _locate(config, key)
        except (KeyError, AttributeError, TypeError):
            raise ConfigError(f"{where} is no setting; write its whole key, such as 'auxiliary.kl'") from None
        if type(value) is not float:
            raise ConfigError(f"{where} is no number with a fraction, and cannot be scheduled")
        for one in values:
            check_values(_with(config, {key: float(one)}))
    for progress in (0.0, 1.0):
        check_values(_with(config, values_at(config, progress)))
    for progress in (number / 20 for number in range(21)) if keys else ():
        values, terms = values_at(config, progress), config.rewards.terms
        if not any(values.get(f"rewards.terms.{name}.weight", term.weight) for name, term in terms.items()):
            raise ConfigError(f"config.schedules: at {progress:.0%} of the run no term of the reward has a weight")


def _keys(config: ConfigDict) -> list[str]:
    return [key for key, *_ in config.schedules]


def _locate(config: ConfigDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def _with(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """A copy of a config with other values by dotted key."""
    changed = copy.deepcopy(config)
    for key, value in values.items():
        section, _, last = key.rpartition(".")
        with (inner := _locate(changed, section)).ignore_type():
            inner[last] = value
    return changed
