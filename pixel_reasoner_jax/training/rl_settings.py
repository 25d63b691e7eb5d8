"""What must hold of the settings of an RL experiment, beyond each value by itself, before anything is loaded."""

from __future__ import annotations

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.named_parts import find_part
from pixel_reasoner_jax.rewards.terms import find_terms
from pixel_reasoner_jax.rollout.subgroups import Subgroups
from pixel_reasoner_jax.training.advantages import METHODS as ADVANTAGES
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.policy_update import check_update_parts
from pixel_reasoner_jax.training.replay import METHODS as REPLAY
from pixel_reasoner_jax.training.schedules import check_schedules


def check_settings(config: ConfigDict, resume: bool = False) -> None:
    """Checks that an experiment's settings go together and name parts that there are.

    Args:
      config: see `rl.run`.
      resume: it goes on, with multipliers of its own.

    Raises:
      ConfigError: settings do not go together; the message names them.
      UserError: there is no part of a name, or its module cannot be imported.
    """
    check_lengths(config)
    check_schedules(config)
    _check_parts(config)
    if not resume:
        CuriosityState.begin(config.curiosity)


def check_lengths(config: ConfigDict) -> None:
    """Checks that a packed row has room for the longest response, and that not every response is "overlong".

    Raises:
      ConfigError: lengths do not go together; the message names both settings.
    """
    longest, row = config.rollout.max_length, config.train.row_length
    if longest > row:
        raise ConfigError(
            f"config.rollout.max_length is {longest}: such a response does not fit into a row of"
            f" config.train.row_length = {row} tokens"
        )
    margin, limit = config.rewards.overlong_margin, config.rollout.max_response_tokens
    if margin > limit and any(term.function == "overlong" for term in config.rewards.terms.values()):
        raise ConfigError(
            f"config.rewards.overlong_margin is {margin}: the term 'overlong' would count from the first token on; it"
            f" must be at most config.rollout.max_response_tokens = {limit}"
        )


def _check_parts(config: ConfigDict) -> None:
    """Checks that there are the functions that the config names."""
    find_terms(config.rewards.terms)
    check_update_parts(config)
    Subgroups.of(config.rollout)
    find_part(config.grpo.advantage, ADVANTAGES, "advantage")
    if config.grpo.credit != "none":
        find_part(config.grpo.credit, {}, "credit")
    find_part(config.replay.method, REPLAY, "replay method")
