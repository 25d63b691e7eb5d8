"""How many updates a run plans, worked by hand."""

from __future__ import annotations

import pytest

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.training.rl import UpdateSchedule


def schedule(records: int, **settings) -> UpdateSchedule:
    """That of the paper's settings, 512 queries of 8 samples an episode and 256 responses an update, with changes."""
    overrides = [(key.replace("__", "."), str(value)) for key, value in settings.items()]
    return UpdateSchedule.of(load_config("rl_qwen2_5_vl_7b", overrides), records, "data")


def test_full_episodes_alone_are_planned():
    planned = schedule(15_000)
    assert (planned.updates_per_episode, planned.steps, planned.episodes) == (16, 29 * 16, 29)
    assert planned.steps_of(1) == range(0, 16) and planned.steps_of(29) == range(448, 464)
    assert schedule(15_000, train__epochs=2).episodes == 58
    assert schedule(1_024, train__batch_size=3_000).steps_of(2) == range(2, 4)  # the second of 1,096 responses


def test_steps_given_end_the_last_episode_early():
    planned = schedule(15_000, train__steps=20)
    assert planned.episodes == 2 and planned.steps_of(2) == range(16, 20)


def test_too_few_queries_are_named():
    with pytest.raises(ConfigError, match="511 queries of data .*grpo.queries_per_episode is 512"):
        schedule(511)
